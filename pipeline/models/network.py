"""A network of diffusers as a Denoiser, and the UNet on images."""

from collections.abc import Mapping
from typing import Any

from diffusers import ConsistencyModelPipeline, DiffusionPipeline, UNet2DModel
from torch import Tensor, nn

from pipeline.diffusion.noise import EDM, Schedule, expand
from pipeline.diffusion.prediction import consistency_to_x0, edm_inputs, edm_to_x0, to_x0
from pipeline.models.denoiser import Denoiser
from pipeline.models.schedulers import spaced_timesteps, student_scheduler
from pipeline.models.song_unet import SongUNet
from pipeline.utils.errors import UserError


class Network(Denoiser):
    """A network of diffusers that can be trained and saved.

    Args:
        backbone: The network itself; all else here is shared by its copies.
        schedule: The noise process that it was trained on.
        prediction: A kind of `pipeline.diffusion.prediction`; "edm" for a network inside EDM's
            preconditioning, whose time input is log(sigma) / 4; or "consistency" for one inside
            that of consistency models, which take 1000 times as much.
        shape: One image or latent, (C, H, W).

    Attributes:
        part: What the backbone is called in a pipeline of diffusers, and here.
        lora: Adapters that were merged into the backbone, by diffusers' names; else None.
    """

    part = "unet"
    lora: dict[str, Tensor] | None = None

    def __init__(
        self, backbone: Any, schedule: Schedule, prediction: str, shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        setattr(self, self.part, backbone)
        self.schedule = schedule
        self.prediction = prediction
        self.shape = shape

    @property
    def backbone(self) -> Any:
        """The network itself."""
        return getattr(self, self.part)

    def pipeline(self) -> DiffusionPipeline:
        """A pipeline of diffusers; called with `settings`, its images are `sample_student`'s."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any] | None:
        """How the pipeline is called for the student's steps; None if it cannot take them."""
        times = self.steps.times
        if len(times) == 1 or times == spaced_timesteps(self.steps):
            return {"num_inference_steps": len(times)}
        return None

    def stages(self) -> list[nn.Module]:
        """Blocks whose output tells what an image holds: of a UNet its narrowest one alone."""
        if isinstance(self.backbone, SongUNet):
            return [self.backbone.decoder[1]]
        return [self.backbone.mid_block]

    def read(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x0, from what the network gives at x_t (B, C, H, W) and t."""
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        return to_x0(self.prediction, output, x_t, alpha, sigma)


class UNet2D(Network):
    """A `UNet2DModel` or `SongUNet`, unconditional or class-conditional, read as x0.

    Its class embedding, if any, gives the number of classes; its config, the shape.

    Args:
        unet, schedule, prediction: As `Network`.
        scheduler: The `scheduler_config.json` that it came with; of EDM it may be empty.
    """

    def __init__(
        self,
        unet: UNet2DModel | SongUNet,
        schedule: Schedule,
        prediction: str,
        scheduler: Mapping[str, Any] | None = None,
    ) -> None:
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        super().__init__(unet, schedule, prediction, (unet.config.in_channels, height, width))
        self.scheduler = scheduler or {}
        self.classes = unet.config.num_class_embeds

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict x0; see `Denoiser.forward`.

        Raises:
            UserError: If a class-conditional network is called without a condition.
        """
        if self.classes is not None and condition is None:
            raise UserError(
                "this teacher has no unconditional branch (its UNet knows class labels alone): "
                "set pairs.guidance to 1"
            )
        if not isinstance(self.schedule, EDM):
            return self.read(self.backbone(x_t, t, class_labels=condition).sample, x_t, t)
        sigma, sigma_data = expand(t, x_t), self.schedule.sigma_data
        scaled, c_noise = edm_inputs(x_t, sigma, sigma_data)
        consistent = self.prediction == "consistency"
        time = c_noise.flatten() * (1000 if consistent else 1)
        output = self.backbone(scaled, time, class_labels=condition).sample
        if consistent:
            return consistency_to_x0(output, x_t, sigma, sigma_data, self.schedule.sigma_min)
        return edm_to_x0(output, x_t, sigma, sigma_data)

    def pipeline(self) -> ConsistencyModelPipeline:
        """The one pipeline of diffusers that takes classes, as in `Network.pipeline`."""
        return ConsistencyModelPipeline(self.unet, student_scheduler(self.scheduler, self.steps))
