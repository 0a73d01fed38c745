"""Stable Diffusion 1, 2 and XL: a UNet on latents, conditioned on text."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from pipeline.diffusion.noise import Schedule
from pipeline.models.adapters import Network
from pipeline.models.latents import Latents
from pipeline.models.text import Text


class TextUNet2D(Network):
    """A `UNet2DConditionModel`; its labels are the numbers of prompts, none the negative prompt.

    Args:
        unet, schedule, prediction: As `Network`.
        text: Prompts and text encoders.
        latents: Of the VAE.
        scheduler: Content of the `scheduler_config.json` it came with.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        schedule: Schedule,
        prediction: str,
        text: Text,
        latents: Latents,
        scheduler: dict[str, Any],
    ) -> None:
        super().__init__(unet, schedule, prediction)
        self.text, self.latents, self.scheduler = text, latents, scheduler
        self.prompts, self.classes = text.prompts, len(text.prompts) or None

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict x0; see `Denoiser.forward`."""
        tokens, pooled = self.text.embed(condition, x_t)
        added = None
        if pooled is not None:
            height, width = (self.latents.factor * size for size in self.shape[1:])
            # size before cropping, the corner cropped to, size after: of an image not cropped
            sizes = pooled.new_tensor([height, width, 0, 0, height, width])
            added = {"text_embeds": pooled, "time_ids": sizes.expand(len(x_t), -1)}
        output = self.unet(
            x_t, t, encoder_hidden_states=tokens.to(x_t.dtype), added_cond_kwargs=added
        )
        return self.read(output.sample, x_t, t)

    def decode(self, x0: Tensor) -> Tensor:
        """The VAE's images of latents."""
        return self.latents.decode(x0)

    def pipeline(self) -> DiffusionPipeline:
        """With a scheduler whose one step is at the last training time and gives x0 itself."""
        scheduler = DDIMScheduler.from_config(
            self.scheduler,
            timestep_spacing="trailing",
            steps_offset=1,
            set_alpha_to_one=True,
            clip_sample=False,
            thresholding=False,
        )
        first, *second = self.text.encoders
        parts = {
            "vae": self.latents.vae,
            "text_encoder": first.network,
            "tokenizer": first.tokenizer,
            "unet": self.unet,
            "scheduler": scheduler,
        }
        if second:
            return StableDiffusionXLPipeline(
                **parts,
                text_encoder_2=second[0].network,
                tokenizer_2=second[0].tokenizer,
                force_zeros_for_empty_prompt=self.text.blank,
                add_watermarker=False,
            )
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
