"""CogView4."""

from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler

from tests.families.builder import Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import glm, vae


def cogview4() -> CogView4Pipeline:
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=16,
        condition_dim=4,
        sample_size=8,
        rope_axes_dim=(8, 8),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
    )
    return CogView4Pipeline(transformer=transformer, scheduler=scheduler, vae=vae(4, 1.0), **glm(8))


_SHIFT = 0.25 + 0.75 * (16 / 256) ** 0.5
"""Of its 16 tokens."""


def _noise(told: float) -> float:
    """Where its network is told a time."""
    return _SHIFT * told / (1 + (_SHIFT - 1) * told)


BUILDERS: dict[str, Builder] = {
    "cogview4": OnLatents(
        family="cogview4",
        make=cogview4,
        sizes=((32, 16), (16, 48)),  # its pipeline takes multiples of 16 pixels
        few={"early": ((_noise(0.8),), True), "fresh": ((1.0, _noise(0.6)), True)},
        wrong=DDIM,
    )
}
