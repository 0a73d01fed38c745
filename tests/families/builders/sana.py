"""SANA."""

from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

from tests.families.builder import Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import dc, gemma


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=16,  # the pipeline takes multiples of 32 pixels
    )
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    return SanaPipeline(
        transformer=transformer, vae=dc(4, 0.41407), scheduler=scheduler, **gemma(8)
    )


BUILDERS: dict[str, Builder] = {
    "sana": OnLatents(
        family="sana",
        make=sana,
        space=(16, 16),
        sizes=((32, 64), (64, 32)),
        call={"use_resolution_binning": False, "height": 32, "width": 32},
        solver="dpmpp_2m",
        few={"early": ((0.506,), True), "ode": ((1.0, 0.6), False)},
        wrong=DDIM,
    )
}
