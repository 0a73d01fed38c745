"""A network of diffusers as a Denoiser: what can be trained and saved."""

from collections.abc import Sequence
from typing import Any, ClassVar

import diffusers
import torch
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition, Inputs
from pipeline.diffusion.noise import EDM, VP, Schedule, expand
from pipeline.diffusion.prediction import (
    consistency_to_x0,
    edm_error_weight,
    edm_inputs,
    edm_to_x0,
    error_weight,
    to_x0,
)
from pipeline.models.comfyui import ComfyUI
from pipeline.models.denoiser import Denoiser
from pipeline.models.family import Family
from pipeline.models.folder import one_side
from pipeline.models.student_scheduler import spaced_timesteps


class Network(Denoiser, Family):
    """A network of diffusers that can be trained and saved.

    Args:
        backbone: The network itself; all else here is shared by its copies. A `sample_size` of
            twice the same number becomes that number, as the pipelines of diffusers take it.
        schedule: The noise process that it was trained on.
        prediction: A kind of `pipeline.diffusion.prediction`; "edm" for a network inside EDM's
            preconditioning, whose time input is log(sigma) / 4; "edm_v" for one that gives the
            opposite; or "consistency" for one inside that of consistency models, which take 1000
            times as much.
        shape: One image or latent, (C, H, W).

    Attributes:
        part: What the backbone is called in a pipeline of diffusers, and here.
        saving: Lines of Python that save the first of its pipeline's `images`.
        time_embedding: Last part of the names of modules that embed the time, (B,) -> (B, D).
        task: What the Hub calls that which it does.
        lora: Adapters that were merged into the backbone, by diffusers' names; else None.
        compute_dtype: What the backbone is given its images in; None: in the type they have.
    """

    part: ClassVar[str] = "unet"
    saving: ClassVar[tuple[str, ...]] = ('images[0].save("image.png")',)
    time_embedding: ClassVar[str] = "time_embedding"
    task: ClassVar[str] = "text-to-image"
    lora: dict[str, Tensor] | None = None
    compute_dtype: torch.dtype | None = None

    def __init__(
        self, backbone: Any, schedule: Schedule, prediction: str, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        side = one_side(size := getattr(backbone.config, "sample_size", None))
        if side != size and side is not None:
            backbone.register_to_config(sample_size=side)
        setattr(self, self.part, backbone)
        self.schedule = schedule
        self.prediction = prediction
        self.shape = shape

    @property
    def backbone(self) -> Any:
        """The network itself."""
        return getattr(self, self.part)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The backbone as a pipeline has it, by names here; their ends are the names there."""
        return {self.part: self.backbone}

    def asked(self, times: Sequence[float]) -> list[str]:
        """Which of its `networks` is asked at each of some times."""
        return [next(iter(self.networks)) for _ in times]

    @property
    def title(self) -> str:
        """What people call the model."""
        return type(self.pipeline()).__name__

    @property
    def imports(self) -> tuple[str, ...]:
        """Lines of Python without which diffusers cannot open the saved network."""
        return ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Parts that the pipeline of its saved folder must be told are not there."""
        return ()

    @property
    def comfyui(self) -> ComfyUI | None:
        """What ComfyUI knows of such models; None where it takes none."""
        return None

    def with_guidance(self, scale: float | None) -> "Network":
        """The same weights told another guidance, where that is an input; None: the same one."""
        return self

    def pipeline(self) -> "diffusers.DiffusionPipeline":
        """A pipeline of diffusers; with `call_settings` its images are `sample_student`'s."""
        raise NotImplementedError

    @property
    def call_settings(self) -> dict[str, Any] | None:
        """How the pipeline is called for the student's steps; None if it cannot take them."""
        times = self.sampler.timesteps
        if times == spaced_timesteps(self.sampler):
            return {"num_inference_steps": len(times)}
        return None

    def usage(self) -> list[str]:
        """Lines of Python that call the pipeline `student` with `call_settings` for `images`.

        Of a network without `call_settings` they mean nothing.
        """
        raise NotImplementedError

    def output(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the backbone gives, (B, C, H, W), in its own type; else as `Denoiser.forward`."""
        given, time = self.inputs(x_t, t)
        return self.predict(given.to(self.compute_dtype or given.dtype), time, condition)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the backbone gives, (B, C, H, W), of its `inputs`; conditions get their type."""
        raise NotImplementedError

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the backbone is given at x_t (B, C, H, W) and t: itself scaled, and its own time."""
        if isinstance(self.schedule, EDM):
            scaled, c_noise = edm_inputs(x_t, expand(t, x_t), self.schedule.sigma_data)
            return scaled, c_noise.flatten() * (1000 if self.prediction == "consistency" else 1)
        return x_t, self.schedule.told(t) if isinstance(self.schedule, VP) else t

    def stages(self) -> list[str]:
        """Names of blocks whose output tells what an image holds: of a UNet its narrowest alone."""
        if self.backbone.mid_block is None:  # as in those that were made small
            return [f"{self.part}.down_blocks.{len(self.backbone.down_blocks) - 1}"]
        return [f"{self.part}.mid_block"]

    def tapped(self, stages: Sequence[str]) -> list[str]:
        """Names of the modules that give what some of its stages give, as they are called."""
        return list(stages)

    def of_stages(self, found: Sequence[Any], inputs: Inputs) -> list[Tensor]:
        """What each of some stages gives of images, of what their `tapped` modules gave."""
        return [self.of_image(each, inputs.x_t, inputs.condition) for each in found]

    def of_image(self, output: Any, x_t: Tensor, condition: Condition) -> Tensor:
        """What a stage gives of an image, maps (B, C, h, w) or tokens (B, h w, C).

        Args:
            output: Of one of `stages`; a block of two streams gives the text's first.
            x_t, condition: What the network was called with.
        """
        while isinstance(output, tuple):  # a block that goes down gives all maps in a second one
            output = output[-1]
        found: Tensor = output
        return found

    def time_embeddings(self) -> list[str]:
        """Names of the modules whose output is the embedding of time."""
        end = f".{self.time_embedding}"
        return [name for name, _ in self.named_modules() if name.endswith(end)]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        """What ends the network after one of its `stages`: names of modules -> what to put there.

        What it predicts then means nothing.
        """
        parts = {"conv_norm_out": nn.Identity(), "conv_out": nn.Identity()}
        return {
            f"{self.part}.{name}": each
            for name, each in {**parts, "up_blocks": nn.ModuleList()}.items()
        }

    def read(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x0, from what the network gives at x_t (B, C, H, W) and t."""
        if isinstance(self.schedule, EDM):
            return self._read_edm(self.schedule, output, x_t, expand(t, x_t))
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        return to_x0(self.prediction, output, x_t, alpha, sigma)

    def _read_edm(self, schedule: EDM, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        data = schedule.sigma_data
        if self.prediction == "consistency":
            return consistency_to_x0(output, x_t, sigma, data, schedule.sigma_min)
        return edm_to_x0(-output if self.prediction == "edm_v" else output, x_t, sigma, data)

    def error_weight(self, t: Tensor) -> Tensor:
        """Of its prediction; see `Denoiser.error_weight`.

        That of consistency models is EDM's: their own is near it, but infinite at sigma_min.
        """
        if isinstance(self.schedule, EDM):
            return edm_error_weight(t, self.schedule.sigma_data)
        return error_weight(self.prediction, self.schedule.alpha(t), self.schedule.sigma(t))

    def _arguments(self) -> str:
        """`call_settings` as they stand in a call."""
        return ", ".join(f"{key}={value}" for key, value in (self.call_settings or {}).items())
