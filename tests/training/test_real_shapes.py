"""FLOPs of a step of released models at their real shapes: the formula is PyTorch's count.

Widths and tokens are the released ones; of blocks that are all alike, one or two are enough.
"""

from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import Config
from pipeline.models.released import Released
from pipeline.models.sampling import guide
from pipeline.training.attention import one_kernel
from pipeline.training.flops import step_flops
from pipeline.training.method import build_method, new_networks


def latents(channels: int) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=channels,
    )


def ddim() -> Any:
    with torch.device("cpu"):
        return diffusers.DDIMScheduler(
            beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        )


def sd15() -> Any:
    return diffusers.StableDiffusionPipeline(
        latents(4),
        None,
        None,
        diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, layers_per_block=1),
        ddim(),
        None,
        None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 1, 2),
        layers_per_block=1,
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return diffusers.StableDiffusionXLPipeline(
        latents(4), None, None, None, None, unet, ddim(), add_watermarker=False
    )


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.FluxPipeline(flow, latents(16), None, None, None, None, transformer)


def qwen() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(num_layers=2)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = diffusers.AutoencoderKLQwenImage()
    return diffusers.QwenImagePipeline(flow, vae, None, None, transformer)


def wan() -> Any:
    with torch.device("cpu"):
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    transformer = diffusers.WanTransformer3DModel(num_layers=2)
    vae = diffusers.AutoencoderKLWan()
    return diffusers.WanPipeline(None, None, vae, scheduler, transformer)


@dataclass(frozen=True)
class Shapes(Released):
    """A model without its text encoders, at a size of its own."""

    size: Any = None


MODELS = {
    "sd15": Shapes("sd", sd15, 768, tokens=77),
    "sdxl": Shapes("sdxl", sdxl, 2048, tokens=77, pooled=1280),
    "flux": Shapes("flux", flux, 4096, pooled=768, size=1024),
    "qwen-image": Shapes("qwen", qwen, 3584, size=1024),
    "wan": Shapes("wan", wan, 4096, size=[81, 480, 832]),
}
LORA = {"rank": 64, "alpha": 8}
RECIPES = {
    "all-weights": {},
    "recompute": {"recompute": True},
    "lora": {"recompute": True, "student": {"lora": LORA}, "critic": {"lora": LORA}},
    "gan": {"gan": {"real": "encoded"}},
}
CASES = [
    *((name, "lora") for name in MODELS),
    *(("sd15", each) for each in RECIPES if each != "lora"),
    ("qwen-image", "gan"),
]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_the_formula_is_torchs_count(name, recipe):
    """Of a step in which student and critic learn, with all its losses and their gradients."""
    few = {
        "regression": {"weight": 0, "batch_size": 1},
        "batch_size": 1,
        "lanes": 1,
        "workers": {"max": 1},
    }
    config = Config.model_validate(
        {
            "run": "run",
            "data": {"name": None},
            "teacher": {"output": "teacher", "prompts": "p", "image_size": MODELS[name].size},
            "encode": {"source": "images"},
            "pairs": {"guidance": 4},
            "distill": {
                **{"steps": 4, "regression_steps": 0, "burn_in_steps": 0},
                **few,
                **RECIPES[recipe],
            },
        }
    )
    teacher, meta = MODELS[name].teacher(config.teacher), torch.device("meta")
    with meta:
        student, critic = new_networks(config.distill, config.network, 0, teacher)
        method = build_method(config.distill, teacher, meta)
    found = step_flops(method, (teacher, student, critic), config.pairs.guidance, config.seed)
    plan, index = method.plan(0), method.step_index_at(config.seed, 0)
    images = torch.zeros(1, *teacher.shape, device=meta)
    real = (images, torch.zeros(1, dtype=torch.int64)) if method.recipe.needs.real else None
    microbatch = method.draw(1, torch.Generator().manual_seed(0), None, real, index, meta)
    with FlopCounterMode(display=False) as counter, one_kernel():
        loss = method.student_loss(plan, student, guide(teacher, 4.0), critic, microbatch)
        loss.total.backward()
        method.critic_loss(critic, loss.samples, microbatch).total.backward()
    assert found(0) == pytest.approx(counter.get_total_flops(), rel=0.01)
