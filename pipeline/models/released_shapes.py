"""The networks of released models in their real shapes.

Shapes are the defaults of diffusers' classes where those are the released ones, and else the
configs on the Hub, or those that NVIDIA's files say of themselves (the name after "Shapes:").
"""

from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from pipeline.models.edm_import import new_adm
from pipeline.models.song_unet import SongUNet

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""Of Stable Diffusion 1.5 and XL, and of DiT."""


def kl_vae(scaling: float, **more: Any) -> Any:
    """Of Stable Diffusion 1.5 and XL, and of DiT; `more` for others of that size."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        scaling_factor=scaling,
        **more,
    )


def clip(kind: Any, width: int, layers: int, heads: int) -> Any:
    """A text encoder of CLIP's vocabulary."""
    return kind(
        transformers.CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )
    )


def sd15() -> Any:
    """Shapes: stable-diffusion-v1-5/stable-diffusion-v1-5."""
    with torch.device("cpu"):  # its tables are read
        scheduler = diffusers.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    return diffusers.StableDiffusionPipeline(
        vae=kl_vae(0.18215),
        text_encoder=clip(transformers.CLIPTextModel, 768, 12, 12),
        tokenizer=None,
        unet=diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """Shapes: stabilityai/stable-diffusion-xl-base-1.0."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
    )
    with torch.device("cpu"):  # its tables are read
        scheduler = diffusers.EulerDiscreteScheduler(
            **BETAS, timestep_spacing="leading", steps_offset=1
        )
    return diffusers.StableDiffusionXLPipeline(
        vae=kl_vae(0.13025),
        text_encoder=clip(transformers.CLIPTextModel, 768, 12, 12),
        text_encoder_2=clip(transformers.CLIPTextModelWithProjection, 1280, 32, 20),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def qwen3_4b() -> Any:
    """Shapes: Qwen/Qwen3-4B."""
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=151936,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        )
    )


def qwen25_vl_7b() -> Any:
    """Shapes: Qwen/Qwen2.5-VL-7B-Instruct."""
    text = {
        **{"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944},
        **{"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
    }
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def umt5_xxl() -> Any:
    """Shapes: google/umt5-xxl, its encoder."""
    return transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=256384, d_model=4096, d_ff=10240, num_layers=24, num_heads=64
        )
    )


def qwen_image() -> Any:
    """Shapes: of the text encoder Qwen/Qwen2.5-VL-7B-Instruct."""
    return diffusers.QwenImagePipeline(
        transformer=diffusers.QwenImageTransformer2DModel(),
        vae=diffusers.AutoencoderKLQwenImage(),
        text_encoder=qwen25_vl_7b(),
        tokenizer=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            use_dynamic_shifting=True,
        ),
    )


def z_image() -> Any:
    """Shapes: of the VAE that of FLUX.1."""
    return diffusers.ZImagePipeline(
        transformer=diffusers.ZImageTransformer2DModel(),
        vae=kl_vae(0.3611, latent_channels=16, shift_factor=0.1159),
        text_encoder=qwen3_4b(),
        tokenizer=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux2_klein() -> Any:
    """Shapes: black-forest-labs/FLUX.2-klein-base-4B."""
    vae = diffusers.AutoencoderKLFlux2()
    vae.bn = nn.BatchNorm2d(vae.bn.num_features, affine=False, device="cpu")  # it is read
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            joint_attention_dim=3 * 2560,
            guidance_embeds=False,
        ),
        vae=vae,
        text_encoder=qwen3_4b(),
        tokenizer=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        is_distilled=False,
    )


def wan(**more: Any) -> Any:
    """Wan 2.1 of 14B, with further components or flags of its pipeline."""
    with torch.device("cpu"):  # its tables are read
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    return diffusers.WanPipeline(
        transformer=diffusers.WanTransformer3DModel(),
        vae=diffusers.AutoencoderKLWan(),
        text_encoder=umt5_xxl(),
        tokenizer=None,
        scheduler=scheduler,
        **more,
    )


def wan22() -> Any:
    """Shapes: two networks as that of Wan 2.1."""
    return wan(transformer_2=diffusers.WanTransformer3DModel(), boundary_ratio=0.875)


def imagenet64_adm() -> nn.Module:
    """Shapes: edm-imagenet-64x64-cond-adm.pkl."""
    shared = {
        **{"sample_size": 64, "in_channels": 3, "out_channels": 3, "num_class_embeds": 1000},
        **{"block_out_channels": (192, 384, 576, 768), "layers_per_block": 3},
        "time_embedding_dim": 768,
    }
    return new_adm(shared, [False, True, True, True])


def cifar10_ddpmpp() -> nn.Module:
    """Shapes: edm-cifar10-32x32-cond-vp.pkl."""
    return SongUNet(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        stem_channels=128,
        block_out_channels=(256, 256, 256),
        layers_per_block=4,
        attention=(False, True, False),
        time_embedding_dim=512,
        num_class_embeds=10,
    )
