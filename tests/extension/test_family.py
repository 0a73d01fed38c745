"""A family that nobody else knows keeps the laws of all families."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

from tests.extension import toy_family
from tests.families.builder import OnLatents
from tests.families.conformance import Conformance
from tests.fixtures.tiny_parts import t5, vae

assert toy_family.AuraFlow.family == "auraflow"


def auraflow() -> AuraFlowPipeline:
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )
    with torch.no_grad():  # so that its attention tells
        for weight in transformer.parameters():
            weight.mul_(2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.73)
    return AuraFlowPipeline(
        transformer=transformer, vae=vae(4, 0.13025), scheduler=scheduler, **t5(12)
    )


AURAFLOW = OnLatents(
    family="auraflow",
    make=auraflow,
    sizes=((32, 16), (24, 32)),  # as far as its table goes
    few={"fresh": ((1.0, 0.75, 0.5, 0.25), True)},
    wrong={"_class_name": "DDIMScheduler", "beta_schedule": "linear"},
)


class TestAuraFlow(Conformance):
    builders = {"auraflow": AURAFLOW}
