"""FLUX.2 klein, before it is distilled."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from transformers import Qwen3ForCausalLM

from pipeline.models.network import Network
from tests.families.builder import FLOW_FEW, Builder, OnLatents
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import qwen3


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


def klein(distilled: bool = False) -> Flux2KleinPipeline:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * 8,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(),
        is_distilled=distilled,
        **qwen3(8, Qwen3ForCausalLM, layers=28),  # the pipeline asks for the 27th
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


BUILDERS: dict[str, Builder] = {
    "flux2-klein": Patched(
        family="flux2",
        make=klein,
        settings={"image_size": 16},
        call={"height": 16, "width": 16},
        few=FLOW_FEW,
        wrong=DDIM,
    )
}
