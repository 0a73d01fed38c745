"""SANA-Video: SANA's transformer on patches of the frames of a video."""

from typing import Any, ClassVar

from pipeline.models.families.sana import Sana
from pipeline.models.family import register_family
from pipeline.models.folder import ModelFolder
from pipeline.models.video_network import VideoNetwork


@register_family
class SanaVideo(VideoNetwork, Sana):
    """A `SanaVideoTransformer3DModel`.

    Source: Chen et al., 2025, arXiv 2509.24695.
    """

    family = "sana-video"
    pipelines = ("SanaVideoPipeline",)
    vaes = ("AutoencoderKLWan",)
    axes = ("frames", "height", "width")
    own = (81, 480, 832)
    # binning would make another size of it
    call_defaults: ClassVar[dict[str, Any]] = {"use_resolution_binning": False}

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if folder.backbone.get("guidance_embeds"):
            return "guidance is an input of it (guidance_embeds), which its pipeline does not give"
        return super().problem(folder)

    @classmethod
    def table(cls, backbone: Any) -> int | None:
        return int(backbone.config.rope_max_seq_len)
