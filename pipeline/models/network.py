"""A network of diffusers as a Denoiser, and the UNet on images."""

from collections.abc import Mapping
from typing import Any

from diffusers import ConsistencyModelPipeline, DiffusionPipeline, UNet2DModel
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, Schedule, expand
from pipeline.diffusion.prediction import consistency_to_x0, edm_inputs, edm_to_x0, to_x0
from pipeline.models.condition import ClassLabels
from pipeline.models.denoiser import Denoiser
from pipeline.models.schedulers import spaced_timesteps, student_scheduler
from pipeline.models.song_unet import SongUNet


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
        times = self.sampler.timesteps
        if len(times) == 1 or times == spaced_timesteps(self.sampler):
            return {"num_inference_steps": len(times)}
        return None

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the backbone gives, (B, C, H, W); arguments as `Denoiser.forward`."""
        raise NotImplementedError

    def stages(self) -> list[str]:
        """Names of blocks whose output tells what an image holds: of a UNet its narrowest alone."""
        song = isinstance(self.backbone, SongUNet)
        return [f"{self.part}.{'decoder.1' if song else 'mid_block'}"]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        """What ends the network after one of its `stages`: names of modules -> what to put there.

        What it predicts then means nothing.
        """
        parts: dict[str, nn.Module] = {"conv_norm_out": nn.Identity(), "conv_out": nn.Identity()}
        if isinstance(self.backbone, SongUNet):
            parts["decoder"] = nn.ModuleList(self.backbone.decoder[:2])
        else:
            parts["up_blocks"] = nn.ModuleList()
        return {f"{self.part}.{name}": each for name, each in parts.items()}

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
        self.conditioner = ClassLabels(unet.config.num_class_embeds)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict x0; see `Denoiser.forward`."""
        output = self.predict(x_t, t, condition)
        if not isinstance(self.schedule, EDM):
            return self.read(output, x_t, t)
        sigma, sigma_data = expand(t, x_t), self.schedule.sigma_data
        if self.prediction == "consistency":
            return consistency_to_x0(output, x_t, sigma, sigma_data, self.schedule.sigma_min)
        return edm_to_x0(output, x_t, sigma, sigma_data)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if isinstance(self.schedule, EDM):
            x_t, c_noise = edm_inputs(x_t, expand(t, x_t), self.schedule.sigma_data)
            t = c_noise.flatten() * (1000 if self.prediction == "consistency" else 1)
        output: Tensor = self.backbone(x_t, t, class_labels=condition.get("labels")).sample
        return output

    def pipeline(self) -> ConsistencyModelPipeline:
        """The one pipeline of diffusers that takes classes, as in `Network.pipeline`."""
        return ConsistencyModelPipeline(self.unet, student_scheduler(self.scheduler, self.sampler))
