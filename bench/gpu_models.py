"""Networks for bench/gpu.py: shapes of released models and tiny ones of the same classes.

All weights are random. Of a model there are the backbone and the VAE; text encoders are left out,
for conditions are noise in the shapes of those that `jobs/embed.py` stores.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from train import ROOT  # noqa: F401 (it makes the packages below known)

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition, Conditioner
from pipeline.models.condition import ClassLabels
from pipeline.models.latent_network import LatentNetwork
from pipeline.models.released import network
from pipeline.models.released_shapes import flux2_klein, kl_vae, qwen_image, sd15, sdxl, wan

PROMPTS = [f"prompt {letter}" for letter in "abcdefgh"]


def dit() -> Any:
    """DiT-XL/2 at 256x256. Shapes: facebook/DiT-XL-2-256."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        sample_size=32,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
    )
    return diffusers.DiTPipeline(
        transformer, kl_vae(0.18215), diffusers.DDIMScheduler(clip_sample=False)
    )


def wan_1b() -> Any:
    """Shapes: Wan-AI/Wan2.1-T2V-1.3B-Diffusers."""
    pipe = wan()
    small = diffusers.WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30)
    pipe.register_modules(transformer=small)
    return pipe


@dataclass(frozen=True)
class Model:
    """A released model.

    Args:
        family: That reads it.
        make: Its pipeline.
        tiny: The tests' name of one of the same classes.
        tokens: Of a prompt.
        flags: Of the pipeline, beside its components.
    """

    family: str
    make: Callable[[], Any]
    tiny: str
    tokens: int
    flags: dict[str, Any] = field(default_factory=dict)

    def teacher(self, settings: TeacherConfig, tiny: bool, device: torch.device) -> LatentNetwork:
        """As `load_teacher` would give it, but on a device."""
        with torch.device("cpu" if tiny else "meta"):
            pipe = builder(self.tiny).make() if tiny else self.make()
        parts: dict[str, Any] = {
            name: on_device(part, device) if name in ("unet", "transformer", "vae") else None
            for name, part in pipe.components.items()
            if name in ("unet", "transformer", "vae") or name.startswith("text_encoder")
        }
        pipe.register_modules(**parts)
        made = network(self.family, pipe, self.flags, settings)
        if not isinstance(made.conditioner, ClassLabels):
            made.conditioner = Noise(made.backbone.config, self.tokens)
        return made


class Noise(Conditioner):
    """Conditions of noise, in the shapes that a backbone with such settings takes.

    Args:
        config: Of the backbone.
        tokens: Of a prompt.
    """

    prompts = PROMPTS
    classes = len(PROMPTS)

    def __init__(self, config: Any, tokens: int) -> None:
        names = ("cross_attention_dim", "joint_attention_dim", "text_dim")
        self._shape = (tokens, next(config[name] for name in names if config.get(name)))
        self._pooled = 0
        if told := config.get("projection_class_embeddings_input_dim"):
            self._pooled = told - 6 * config.addition_time_embed_dim

    def __call__(
        self, labels: Tensor | None, count: int, device: torch.device | str = "cpu"
    ) -> Condition:
        tokens = torch.randn(count, *self._shape, device=device)
        found = {"tokens": tokens, "mask": torch.ones_like(tokens[..., 0], dtype=torch.bool)}
        if self._pooled:
            found["pooled"] = torch.randn(count, self._pooled, device=device)
        return Condition(found)

    def null(self, count: int, device: torch.device | str = "cpu") -> Condition:
        return self(None, count, device)


def on_device(part: Any, device: torch.device) -> nn.Module:
    """A network of the same settings, its weights on a device."""
    with device:
        made: nn.Module = type(part).from_config(part.config)
    return made.to(device)  # some make tables of NumPy's


def builder(name: str) -> Any:
    """The tests' builder of a tiny model."""
    from tests.families.builders import BUILDERS  # needs what the tests need

    return BUILDERS[name]


MODELS = {
    "sd15": Model("sd", sd15, "sd1", 77),
    "sdxl": Model("sdxl", sdxl, "sdxl", 77),
    "dit": Model("dit", dit, "dit", 0),
    "qwen-image": Model("qwen", qwen_image, "qwen", 512),
    "wan-1.3b": Model("wan", wan_1b, "wan-unipc", 512),
    "flux2-klein": Model("flux2", flux2_klein, "flux2-klein", 512, {"is_distilled": False}),
}
