"""What networks on the latents of videos share."""

from typing import Any

from pipeline.models.latent_transformer import LatentTransformer
from pipeline.models.sizes import VideoSizes
from pipeline.models.vae import VAE, VideoVAE


class VideoNetwork(VideoSizes, LatentTransformer):
    """A transformer on latents of videos, (C, f, h, w): its images are videos, (3, F, H, W)."""

    task = "text-to-video"
    saving = (
        "from diffusers.utils import export_to_video",
        'export_to_video(videos[0], "video.mp4")',
    )

    @classmethod
    def vae(cls, network: Any) -> VAE:
        return VideoVAE(network)

    def _usage(self, condition: str, scale: float = 1.0) -> str:
        return f"videos = student({condition}, {self._arguments()}, guidance_scale={scale}).frames"
