"""Stable Diffusion 1 and 2: a UNet on latents, conditioned on text."""

from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from pipeline.diffusion.noise import Schedule
from pipeline.models.adapters import Network
from pipeline.models.latents import Latents
from pipeline.models.text import Text


class TextUNet2D(Network):
    """A `UNet2DConditionModel`; its labels are the numbers of prompts, none the negative prompt.

    Args:
        unet, schedule, prediction: As `Network`.
        text: Prompts, tokenizer and encoder.
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
        context = self.text.embed(condition, x_t).to(x_t.dtype)
        return self.read(self.unet(x_t, t, encoder_hidden_states=context).sample, x_t, t)

    def decode(self, x0: Tensor) -> Tensor:
        """The VAE's images of latents, eight times as high and wide."""
        return self.latents.decode(x0)

    def pipeline(self) -> StableDiffusionPipeline:
        """With a scheduler whose one step is at the last training time and gives x0 itself."""
        scheduler = DDIMScheduler.from_config(
            self.scheduler,
            timestep_spacing="trailing",
            steps_offset=1,
            set_alpha_to_one=True,
            clip_sample=False,
            thresholding=False,
        )
        return StableDiffusionPipeline(
            vae=self.latents.vae,
            text_encoder=self.text.encoder,
            tokenizer=self.text.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
