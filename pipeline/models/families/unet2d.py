"""UNets on images, unconditional or class-conditional: DDPM and DDIM (google/ddpm-*)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import diffusers
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import VP, Schedule
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.models.condition import ClassLabels
from pipeline.models.family import register_family
from pipeline.models.folder import (
    ModelFolder,
    backbone_folder,
    load_network,
    one_side,
    size_problem,
)
from pipeline.models.network import Network
from pipeline.models.schedulers import completed, is_edm, read_scheduler
from pipeline.models.student_scheduler import student_scheduler
from pipeline.utils.errors import UserError


@register_family
class UNet2D(Network):
    """A `UNet2DModel`, read as x0.

    Its class embedding, if any, gives the number of classes; its config, the shape.

    Args:
        unet, schedule, prediction: As `Network`.
        scheduler: The `scheduler_config.json` that it came with, `completed`; of EDM it may be
            empty.
    """

    family = "unet2d"
    pipelines: ClassVar[tuple[str, ...]] = (
        "DDPMPipeline",
        "DDIMPipeline",
        "ConsistencyModelPipeline",
    )
    takes = {VP: PREDICTIONS}

    def __init__(
        self,
        unet: Any,
        schedule: Schedule,
        prediction: str,
        scheduler: Mapping[str, Any] | None = None,
    ) -> None:
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        super().__init__(unet, schedule, prediction, (unet.config.in_channels, height, width))
        self.scheduler = scheduler or {}
        self.conditioner = ClassLabels(unet.config.num_class_embeds)

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        """Any pipeline of a `UNet2DModel`, or none at all, but those of EDM."""
        return folder.network == "UNet2DModel" and not is_edm(folder.scheduler)

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        config = folder.backbone
        if folder.index.get("vqvae") or folder.index.get("vae"):
            return "it works on latents and knows no text"
        if config.get("out_channels") != config.get("in_channels"):
            return "it predicts a variance too"
        if config.get("class_embed_type") is not None:
            return f"its class_embed_type is {config['class_embed_type']}"
        return size_problem(None) if folder.sample_size is None else None

    @classmethod
    def load(cls, folder: ModelFolder | None, teacher: TeacherConfig) -> "UNet2D":
        assert folder is not None
        if teacher.first_size is not None:
            setting = "buckets" if teacher.buckets else "image_size"
            raise UserError(
                f"teacher.{setting}: {teacher.first_size} is for models on latents; "
                f"{folder.path} makes images of its own size"
            )
        schedule, prediction = read_scheduler(folder.scheduler)
        cls.check_noise(folder, schedule, prediction)
        unet = load_network(cls.network(folder), backbone_folder(folder.path))
        return cls(unet, schedule, prediction, completed(folder.scheduler))

    @staticmethod
    def network(folder: ModelFolder) -> Any:
        """The class of the backbone."""
        return diffusers.UNet2DModel

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0; see `Denoiser.forward`."""
        return self.read(self.output(x_t, t, condition), x_t, t)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.backbone(x_t, t, class_labels=condition.get("labels")).sample
        return output

    def pipeline(self) -> "diffusers.ConsistencyModelPipeline":
        """The one pipeline of diffusers that takes classes, as in `Network.pipeline`."""
        return diffusers.ConsistencyModelPipeline(
            self.backbone, student_scheduler(self.scheduler, self.sampler)
        )

    @property
    def call_settings(self) -> dict[str, Any] | None:
        """As `Network.call_settings`; None where a formula's images are not square."""
        return super().call_settings if one_side(self.shape[1:]) else None

    def usage(self) -> list[str]:
        if not self.classes:
            return [f"images = student({self._arguments()}).images"]
        return [
            f"labels = {list(range(min(4, self.classes)))}",
            f"images = student(len(labels), class_labels=labels, {self._arguments()}).images",
        ]
