"""FLUX.2 klein, before it is distilled, and dev."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import transformers
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from transformers import Qwen3ForCausalLM

from pipeline.models.network import Network
from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import mistral3, qwen3


def vae() -> AutoencoderKLFlux2:
    network = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    network.bn.running_mean.normal_()
    network.bn.running_var.uniform_(0.3, 3.0)
    return network


def transformer(**more: Any) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * 8,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        **more,
    )


SCHEDULER = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def klein(distilled: bool = False) -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        transformer=transformer(num_layers=1, num_single_layers=2, guidance_embeds=False),
        scheduler=SCHEDULER,
        vae=vae(),
        is_distilled=distilled,
        **qwen3(8, Qwen3ForCausalLM, layers=28),  # the pipeline asks for the 27th
    )


def dev() -> Flux2Pipeline:
    return Flux2Pipeline(
        transformer=transformer(num_layers=2, num_single_layers=1),
        scheduler=SCHEDULER,
        vae=vae(),
        **mistral3(8, layers=30),  # the pipeline asks for the 30th
    )


@dataclass(frozen=True, kw_only=True)
class Patched(OnLatents):
    """Its latents are patches of the VAE's; what its pipeline gives as latents are the VAE's."""

    channels: int = 16
    space: tuple[int, int] = (4, 4)

    def save(self, folder: Path, seed: int = 0) -> Path:
        """Without the file that nothing reads."""
        super().save(folder, seed)
        (folder / "text_encoder" / "generation_config.json").unlink()
        return folder

    def larger(self, times: int) -> Any:
        return 2 * super().larger(times)

    def sized(self, height: int, width: int) -> OnLatents:
        return replace(super().sized(height, width), space=(height // 4, width // 4))

    def stepped(self, latents: Tensor) -> Tensor:
        return latents.flatten(2).mT

    def unpack(self, latents: Tensor) -> Tensor:
        return latents.mT.unflatten(2, self.space) if latents.ndim == 3 else latents

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        """The first one is an image."""
        prompts, settings = super().arguments(guidance)
        return None, {**settings, "prompt": prompts}

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        made = super().called(pipe, steps, guidance, output, **more)
        return pipe.vae.bn(pipe._patchify_latents(made)) if output == "latent" else made

    def end(self, pipe: Any, teacher: Network, steps: int, guidance: float) -> Tensor:
        """Its pipeline takes a negative prompt as embeddings alone."""
        negative, _ = pipe.encode_prompt([getattr(teacher.conditioner, "negative", "")] * 2)
        return self.called(pipe, steps, guidance, self.output, negative_prompt_embeds=negative)


@dataclass(frozen=True, kw_only=True)
class Dev(Patched):
    """Its tokenizer is in a processor, which needs torchvision; `guidance_scale` is an input."""

    guidable: bool = False

    def save(self, folder: Path, seed: int = 0) -> Path:
        """As the processor saves itself around its tokenizer, and without a setting's default."""
        super().save(folder, seed)
        _change(folder / "model_index.json", tokenizer=["transformers", "PixtralProcessor"])
        named = {"processor_class": "PixtralProcessor", "tokenizer_class": "LlamaTokenizerFast"}
        _change(folder / "tokenizer" / "tokenizer_config.json", **named)
        (folder / "tokenizer" / "processor_config.json").write_text(json.dumps(PROCESSOR))
        _change(folder / "transformer" / "config.json", guidance_embeds=None)
        return folder

    def open(self, folder: Path) -> Any:
        """With the tokenizer alone, which makes the processor's tokens."""
        with patch.object(transformers, "PixtralProcessor", transformers.TokenizersBackend):
            return super().open(folder)

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        return super().arguments(3.5)

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        """What it gives as latents are the model's own."""
        return OnLatents.called(self, pipe, steps, guidance, output, **more)

    def end(self, pipe: Any, teacher: Network, steps: int, guidance: float) -> Tensor:
        return self.called(pipe, steps, guidance, self.output)


PROCESSOR = {
    "image_processor": {"image_processor_type": "PixtralImageProcessor"},
    "patch_size": 14,
    "processor_class": "PixtralProcessor",
    "spatial_merge_size": 2,
}


def _change(file: Path, **more: Any) -> None:
    """Settings in a JSON file; None takes one out."""
    settings = json.loads(file.read_text()) | more
    kept = {key: value for key, value in settings.items() if value is not None}
    file.write_text(json.dumps(kept, indent=2))


_SETTINGS: dict[str, Any] = {
    "settings": {"image_size": 16},
    "call": {"height": 16, "width": 16},
    "few": FLOW_FEW,
    "wrong": DDIM,
}

BUILDERS: dict[str, Builder] = {
    "flux2-klein": Patched(family="flux2", make=klein, **_SETTINGS),
    "flux2-dev": Dev(family="flux2-dev", make=dev, **_SETTINGS),
}
