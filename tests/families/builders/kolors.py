"""Kolors."""

from diffusers import EulerDiscreteScheduler, KolorsPipeline

from tests.families.builder import Builder, OnLatents
from tests.families.builders.sd import text_unet
from tests.families.builders.unet2d import FLOW
from tests.fixtures.tiny_parts import chatglm, vae


def kolors() -> KolorsPipeline:
    """Its tokens are 12 wide, and become 16; it was trained on 1,100 steps."""
    return KolorsPipeline(
        vae=vae(4, 0.13025),
        unet=text_unet(
            16,
            encoder_hid_dim=12,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(
            num_train_timesteps=1100,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.014,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        **chatglm(12),
    )


BUILDERS: dict[str, Builder] = {
    "kolors": OnLatents(
        family="kolors",
        make=kolors,
        empty_is_none=True,
        few={"early": ((439,), True)},
        wrong=FLOW,
    ),
}
