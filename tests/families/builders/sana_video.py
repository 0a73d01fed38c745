"""SANA-Video."""

from diffusers import (
    DPMSolverMultistepScheduler,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)

from tests.families.builder import Builder, OnVideos
from tests.families.builders.sd3 import DDIM
from tests.families.builders.wan import wan_vae
from tests.fixtures.tiny_parts import gemma


def sana_video() -> SanaVideoPipeline:
    transformer = SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=8,
        rope_max_seq_len=64,
    )
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=8.0, prediction_type="flow_prediction"
    )
    return SanaVideoPipeline(
        transformer=transformer, vae=wan_vae(), scheduler=scheduler, **gemma(8)
    )


BUILDERS: dict[str, Builder] = {
    "sana-video": OnVideos(
        family="sana-video",
        make=sana_video,
        axes=("frames", "height", "width"),
        space=(3, 16, 16),  # the pipeline takes multiples of 32 pixels
        sizes=((3, 32, 64), (7, 64, 32)),
        settings={"image_size": [5, 32, 32]},
        call={"use_resolution_binning": False, "frames": 5, "height": 32, "width": 32},
        solver="dpmpp_2m",
        few={"early": ((0.506,), True), "ode": ((1.0, 0.6), False)},
        wrong=DDIM,
    )
}
