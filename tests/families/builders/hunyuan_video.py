"""HunyuanVideo 1.5."""

from dataclasses import dataclass
from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)

from tests.families.builder import Builder, OnVideos
from tests.families.builders.sd3 import DDIM
from tests.fixtures.tiny_parts import CHAT, SMALL, qwen_tokenizer


def qwen_text(width: int) -> dict[str, Any]:
    """The text's part alone of a model of text and images."""
    tokenizer = qwen_tokenizer(chat_template=CHAT)
    config = Qwen2_5_VLTextConfig(
        **{name: size for name, size in SMALL.items() if name != "head_dim"}
        | {"num_hidden_layers": 3},  # the last two are not asked
        vocab_size=len(tokenizer),
        hidden_size=width,
        rope_scaling={"type": "mrope", "mrope_section": [1, 1, 1]},
    )
    return {"tokenizer": tokenizer, "text_encoder": Qwen2_5_VLTextModel(config)}


def byt5(width: int) -> dict[str, Any]:
    """Of the words in quotes, byte by byte."""
    tokenizer = ByT5Tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return {"tokenizer_2": tokenizer, "text_encoder_2": T5EncoderModel(config)}


def hunyuan_video() -> HunyuanVideo15Pipeline:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=1,
        attention_head_dim=8,
        num_layers=1,  # its pipeline's 2,000 tokens of text take long
        num_refiner_layers=1,
        text_embed_dim=12,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )
    return HunyuanVideo15Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=vae,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        **qwen_text(12),
        **byt5(8),
    )


@dataclass(frozen=True, kw_only=True)
class Guided(OnVideos):
    """Its guidance is that of a component."""

    def guidance(self, pipe: Any) -> float:
        return float(pipe.guider.guidance_scale)

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        first, settings = super().arguments(guidance)
        del settings["guidance_scale"]
        return first, settings

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        pipe.guider = pipe.guider.new(guidance_scale=guidance)
        return super().called(pipe, steps, guidance, output, **more)

    def unpack(self, latents: Tensor) -> Tensor:
        return latents[:, : self.channels]


BUILDERS: dict[str, Builder] = {
    "hunyuan-video": Guided(
        family="hunyuan-video",
        make=hunyuan_video,
        few={"early": ((0.8,), True), "ode": ((1.0, 0.6), False)},
        wrong=DDIM,
        idle=("0.attn.to_add_out",),
        sliced=True,  # in diffusers its mask of frames is of one video
    )
}
