"""diffusers' networks and schedulers as Denoisers: every dialect is translated here alone."""

from collections.abc import Mapping
from typing import Any

from diffusers import (
    ConsistencyModelPipeline,
    DiffusionPipeline,
    EDMEulerScheduler,
    UNet2DModel,
)
from diffusers.schedulers import DDPMScheduler
from torch import Tensor

from pipeline.diffusion.noise import EDM, VP, Flow, Schedule, expand
from pipeline.diffusion.prediction import PREDICTIONS, edm_inputs, edm_to_x0, to_x0
from pipeline.errors import UserError
from pipeline.models.denoiser import Denoiser
from pipeline.models.song_unet import SongUNet


class Network(Denoiser):
    """A network of diffusers that can be trained and saved.

    Args:
        unet: The network itself; all else here is shared by its copies.
        schedule: The noise process that it was trained on.
        prediction: A kind of `pipeline.diffusion.prediction`, or "edm" for a network inside
            EDM's preconditioning, whose time input is log(sigma) / 4.
    """

    def __init__(self, unet: Any, schedule: Schedule, prediction: str):
        super().__init__()
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.unet = unet
        self.schedule = schedule
        self.prediction = prediction
        self.shape = (unet.config.in_channels, height, width)

    def pipeline(self) -> DiffusionPipeline:
        """A pipeline of diffusers whose image in one step is `sample_student`'s."""
        raise NotImplementedError

    def read(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x0, from what the network gives at x_t (B, C, H, W) and t."""
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        return to_x0(self.prediction, output, x_t, alpha, sigma)


class UNet2D(Network):
    """A `UNet2DModel` or `SongUNet`, unconditional or class-conditional, read as x0.

    Its class embedding, if any, gives the number of classes. Arguments as `Network`.
    """

    def __init__(self, unet: UNet2DModel | SongUNet, schedule: Schedule, prediction: str):
        super().__init__(unet, schedule, prediction)
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
        if self.prediction == "edm":
            assert isinstance(self.schedule, EDM)
            sigma, sigma_data = expand(t, x_t), self.schedule.sigma_data
            scaled, c_noise = edm_inputs(x_t, sigma, sigma_data)
            output = self.unet(scaled, c_noise.flatten(), class_labels=condition).sample
            return edm_to_x0(output, x_t, sigma, sigma_data)
        time = t * self.schedule.steps_table if isinstance(self.schedule, Flow) else t
        return self.read(self.unet(x_t, time, class_labels=condition).sample, x_t, t)

    def pipeline(self) -> ConsistencyModelPipeline:
        """`ConsistencyModelPipeline` on EDM's sigmas, as in `Network.pipeline`."""
        schedule = self.schedule
        assert isinstance(schedule, EDM) and self.prediction == "edm"
        scheduler = EDMEulerScheduler(
            sigma_min=schedule.sigma_min,
            sigma_max=schedule.sigma_max,
            sigma_data=schedule.sigma_data,
            rho=schedule.rho,
        )
        return ConsistencyModelPipeline(self.unet, scheduler)


def read_scheduler(config: Mapping[str, Any]) -> tuple[Schedule, str]:
    """The noise schedule and the prediction that a diffusers `scheduler_config.json` stands for.

    Args:
        config: The file's content, `_class_name` included.

    Returns:
        The schedule, and a kind of prediction or "edm".

    Raises:
        UserError: If the scheduler's class, prediction type or betas are not known here.
    """
    name = str(config.get("_class_name", ""))
    prediction = str(config.get("prediction_type", "epsilon"))
    if name.startswith("EDM"):
        _known(name, prediction, ("epsilon",))
        keys = ("sigma_min", "sigma_max", "sigma_data", "rho")
        return EDM(**{key: config[key] for key in keys if key in config}), "edm"
    if name.startswith("FlowMatch"):
        if config.get("use_dynamic_shifting"):
            raise UserError(f"{name}: use_dynamic_shifting is not supported")
        return Flow(config.get("shift", 1.0), config.get("num_train_timesteps", 1000)), (
            "flow_prediction"
        )
    if "beta_schedule" in config or "trained_betas" in config:
        _known(name, prediction, PREDICTIONS)
        spacing = config.get("timestep_spacing", "leading")
        try:
            table = DDPMScheduler.from_config(dict(config)).alphas_cumprod
        except NotImplementedError as error:
            raise UserError(
                f"{name}: beta_schedule {config['beta_schedule']!r} is unknown"
            ) from error
        vp = VP(
            alphas_cumprod=table,
            spacing=spacing,
            steps_offset=config.get("steps_offset", 0) if spacing == "leading" else 0,
            clean_end=config.get("set_alpha_to_one", True),
        )
        return vp, prediction
    raise UserError(
        f"scheduler {name or 'without a class name'} is not supported; "
        "known are EDM*, FlowMatch* and diffusers' schedulers with betas"
    )


def _known(scheduler: str, prediction: str, kinds: tuple[str, ...]) -> None:
    if prediction not in kinds:
        raise UserError(
            f"{scheduler}: prediction_type {prediction!r} is unknown; known are {', '.join(kinds)}"
        )
