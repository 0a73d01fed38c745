"""A tiny model of a family in the layout of the real ones, and how diffusers' pipeline calls it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDIMPipeline, DiffusionPipeline
from torch import Tensor, nn

from pipeline.config import TeacherConfig
from pipeline.diffusion.noise import Flow
from pipeline.models.denoiser import Denoiser
from pipeline.models.network import Network

PROMPTS = ["a cat", "two dogs on a hill", "a cat"]
NEGATIVE = "blurry"

Few = tuple[tuple[float, ...], bool]
"""A student of a few steps: its times, and whether noise is fresh between them."""
FLOW_FEW: dict[str, Few] = {
    "early": ((0.8,), True),
    "ode": ((1.0, 0.6), False),
    "fresh": ((1.0, 0.7, 0.3), True),
}
"""Of a flow."""


Step = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of a scheduler: its network's output, the time and x_t that it is given, and what it gives."""


class Call(NamedTuple):
    """A step of a pipeline: the time, what its network was given, and the x0 read from it."""

    time: float
    x_t: Tensor
    x0: Tensor


def shown(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], as pipelines do."""
    return (images / 2 + 0.5).clamp(0, 1)


def backbones(pipe: Any) -> list[nn.Module]:
    """The networks of a pipeline that predict x0: one, or two experts."""
    names = ("unet", "transformer", "transformer_2")
    return [found for name in names if (found := getattr(pipe, name, None)) is not None]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A tiny model of a family.

    Args:
        family: The name of the family.
        make: A pipeline with random weights; None for a family without files.
        settings: Of the teacher, beside its folder and prompts.
        labels: Of two samples; None for a model without.
        space: Height and width of x0, of videos its frames before them.
        sizes: That are no squares, in pixels, two to a latent: (height, width), of videos with
            their frames before them.
        channels: Of x0.
        guidable: Whether its network knows no condition, so that it can be guided.
        solver: What the pipeline's own sampler is called here.
        few: Students of a few steps that diffusers can take, by a name.
        wrong: A scheduler that the family does not take.
        idle: Parts of its backbone, by the ends of their names, whose output nothing reads.
        sliced: Whether its VAE decodes one image or video at a time alone.
        imports: Lines of Python that a process without our code needs beside its network's.
    """

    family: str
    make: Callable[[], Any] | None
    settings: dict[str, Any] = field(default_factory=dict)
    labels: tuple[int, int] | None = (1, 0)
    space: tuple[int, ...] = (8, 8)
    sizes: tuple[tuple[int, ...], ...] = ()
    channels: int = 4
    guidable: bool = True
    solver: str = "euler"
    few: dict[str, Few] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    sliced: bool = False
    imports: tuple[str, ...] = ()

    def save(self, folder: Path, seed: int = 0) -> Path:
        """Save it with random weights, also where a new network would start with zeros."""
        assert self.make is not None
        torch.manual_seed(seed)
        pipe = self.make()
        with torch.no_grad():
            for weight in (w for network in backbones(pipe) for w in network.parameters()):
                if not weight.any():
                    weight.normal_(std=0.1)
        pipe.save_pretrained(folder)
        return folder

    def teacher(self, folder: Path, prompts: Path) -> TeacherConfig:
        """The settings of a teacher in a folder, with a file of `PROMPTS`."""
        return TeacherConfig.model_validate({"output": str(folder), **self.settings})

    def noise(self, count: int = 2) -> Tensor:
        rng = torch.Generator().manual_seed(1)
        return torch.randn(count, self.channels, *self.space, generator=rng)

    def labels_of(self, network: Denoiser) -> Tensor | None:
        return None if self.labels is None else torch.tensor(self.labels)

    def times(self, network: Denoiser) -> list[float]:
        """Two, for a student of two steps."""
        start = network.schedule.start
        return [start, start / 2 if isinstance(network.schedule, Flow) else float(int(start / 2))]

    def open(self, folder: Path) -> Any:
        """The pipeline, by diffusers alone."""
        pipe = DiffusionPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        if self.sliced:
            pipe.vae.enable_slicing()
        return pipe

    def calls(self, pipe: Any, teacher: Network, steps: int) -> list[Call]:
        """What the pipeline does, from `noise` and without guidance."""
        raise NotImplementedError

    def end(self, pipe: Any, teacher: Network, steps: int, guidance: float) -> Tensor:
        """What `visible` shows of the pipeline's images, from `noise`."""
        raise NotImplementedError

    def guidance(self, pipe: Any) -> float:
        """The pipeline's own, where it is told none."""
        told = inspect.signature(type(pipe).__call__).parameters
        scales = [
            told[name].default for name in ("true_cfg_scale", "guidance_scale") if name in told
        ]
        return float(scales[0]) if scales else 1.0

    def start(self, pipe: Any, teacher: Network) -> Tensor:
        """The noise with which a solver begins where the pipeline does."""
        return self.noise()

    def stepped(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the pipeline's scheduler takes them."""
        return latents

    def visible(self, network: Denoiser, x0: Tensor) -> Tensor:
        """What can be compared with `end`."""
        return x0

    def images(self, made: Tensor) -> Tensor:
        """What a pipeline makes, as `decode` would give it."""
        return made

    def stranger(self, student: Network) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What a process without our code calls the student's pipeline with, once or for rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OnLatents(Builder):
    """On latents of 4 channels.

    Args:
        call: Further arguments of the pipeline.
        negatable: Whether it takes a negative prompt.
        empty_is_none: Whether it wants None for the empty negative prompt.
    """

    sizes: tuple[tuple[int, ...], ...] = ((24, 16), (16, 40))
    call: dict[str, Any] = field(default_factory=dict)
    negatable: bool = True
    empty_is_none: bool = False

    def teacher(self, folder: Path, prompts: Path) -> TeacherConfig:
        plain = super().teacher(folder, prompts)
        return plain.model_copy(update={"prompts": str(prompts), "negative_prompt": NEGATIVE})

    def larger(self, times: int) -> Any:
        """`teacher.image_size` of so many times the pixels a side."""
        return times * 2 * self.space[-1]

    def sized(self, height: int, width: int) -> "OnLatents":
        """The same model for images of so many pixels."""
        return replace(
            self,
            space=(height // 2, width // 2),
            settings={**self.settings, "image_size": [height, width]},
            call={**self.call, "height": height, "width": width},
        )

    def pack(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) as the pipeline's network takes them."""
        return latents

    def stepped(self, latents: Tensor) -> Tensor:
        return self.pack(latents)

    def unpack(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w), of those that the pipeline's network gives."""
        return latents

    def arguments(self, guidance: float) -> tuple[Any, dict[str, Any]]:
        """For `noise` and `labels`: the first one, and others but for steps and output."""
        settings = {"guidance_scale": guidance, "latents": self.pack(self.noise())}
        assert self.labels is not None
        return [PROMPTS[label] for label in self.labels], settings | self.call

    def called(self, pipe: Any, steps: int, guidance: float, output: str, **more: Any) -> Tensor:
        """Latents ("latent") or images ("pt") of the pipeline."""
        first, settings = self.arguments(guidance)
        made = pipe(first, num_inference_steps=steps, output_type=output, **settings, **more)[0]
        return self.unpack(made) if output == "latent" else self.images(torch.as_tensor(made))

    def calls(self, pipe: Any, teacher: Network, steps: int) -> list[Call]:
        seen: list[tuple[Tensor, Tensor]] = []

        def note(network: Any, given: tuple, named: dict, output: Any) -> None:
            x_t = named["hidden_states"] if "hidden_states" in named else given[0]
            seen.append((self.unpack(x_t).clone(), self.unpack(output[0]).clone()))

        hooks = [each.register_forward_hook(note, with_kwargs=True) for each in backbones(pipe)]
        self.called(pipe, steps, 1.0, self.output)
        for hook in hooks:
            hook.remove()
        times = pipe.scheduler.timesteps.tolist()
        return [
            Call(*self._read(pipe.scheduler, x_t, out[:, : x_t.shape[1]], step))
            for step, (x_t, out) in enumerate(seen)
            if not step or times[step] != times[step - 1]  # PLMS asks twice
        ]

    def _read(self, scheduler: Any, x_t: Tensor, out: Tensor, step: int) -> tuple:
        """Time, x_t and x0, from the scheduler's own tables; x_t is given scaled."""
        if hasattr(scheduler, "precondition_outputs"):
            sigma = scheduler.sigmas[step]
            x_t = x_t * (sigma**2 + scheduler.config.sigma_data**2) ** 0.5
            return float(sigma), x_t, scheduler.precondition_outputs(x_t, out, sigma)
        if scheduler.config.get("timestep_type") == "continuous":
            sigma = scheduler.sigmas[step]
            spread = (sigma**2 + 1) ** 0.5
            return float(sigma), x_t * spread, (x_t - sigma * out) / spread
        if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
            sigma = scheduler.sigmas[step]
            return float(sigma), x_t, x_t - sigma * out
        time = scheduler.timesteps[step]
        alpha = scheduler.alphas_cumprod[int(time)] ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        if scheduler.config.prediction_type == "v_prediction":
            return float(time), x_t, alpha * x_t - sigma * out
        return float(time), x_t, (x_t - sigma * out) / alpha

    output = "latent"
    """What of the pipeline is compared."""

    def end(self, pipe: Any, teacher: Network, steps: int, guidance: float) -> Tensor:
        negative = getattr(teacher.conditioner, "negative", "")
        more: dict[str, Any] = {}
        if self.negatable:
            named = None if self.empty_is_none and not negative else [negative] * 2
            more["negative_prompt"] = named
        return self.called(pipe, steps, guidance, self.output, **more)

    def stranger(self, student: Network) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        first, settings = self.arguments(1.0)
        return [((first,), {**settings, **(student.call_settings or {})})]


@dataclass(frozen=True, kw_only=True)
class OnVideos(OnLatents):
    """On latents of videos, two frames to a latent but for the first.

    Args:
        axes: What the pipeline calls the numbers of a size.
        pixels: To a latent, in height and in width.
    """

    axes: tuple[str, ...] = ("num_frames", "height", "width")
    pixels: int = 2
    space: tuple[int, ...] = (3, 8, 8)
    sizes: tuple[tuple[int, ...], ...] = ((3, 32, 16), (7, 16, 48))
    settings: dict[str, Any] = field(default_factory=lambda: {"image_size": [5, 16, 16]})
    call: dict[str, Any] = field(
        default_factory=lambda: {"num_frames": 5, "height": 16, "width": 16}
    )

    def larger(self, times: int) -> Any:
        side = times * self.pixels * self.space[-1]
        return [2 * self.space[0] - 1, side, side]

    def sized(self, frames: int, height: int, width: int) -> "OnVideos":  # type: ignore[override]
        space = ((frames + 1) // 2, height // self.pixels, width // self.pixels)
        size = [frames, height, width]
        call = dict(zip(self.axes, size, strict=True))
        return replace(
            self,
            space=space,
            settings={**self.settings, "image_size": size},
            call={**self.call, **call},
        )

    def images(self, made: Tensor) -> Tensor:
        return made.transpose(1, 2)  # frames come first


@dataclass(frozen=True, kw_only=True)
class OnImages(Builder):
    """On images of 8x8 in colours, by a pipeline that takes classes or nothing."""

    labels: tuple[int, int] | None = None
    channels: int = 3
    guidable: bool = False

    def _steps(self, pipe: Any, teacher: Network, steps: int) -> list[Step]:
        """Of every step of the scheduler: what it is given (output, time, x_t), and gives."""
        seen, step = list[Step](), pipe.scheduler.step

        def noted(output: Tensor, time: Tensor, x_t: Tensor, **more: Any) -> Any:
            done = step(output, time, x_t, **more)
            seen.append((output, time, x_t, done[0]))
            return done

        pipe.scheduler.step = noted
        settings: dict[str, Any] = {"generator": torch.Generator().manual_seed(1)}
        if self.labels is not None:
            settings["class_labels"] = self.labels_of(teacher)
        pipe(batch_size=2, num_inference_steps=steps, **settings)
        del pipe.scheduler.step
        return seen

    def calls(self, pipe: Any, teacher: Network, steps: int) -> list[Call]:
        seen = self._steps(pipe, teacher, steps)
        return [self._read(pipe.scheduler, *each, step) for step, each in enumerate(seen)]

    def _read(
        self, scheduler: Any, output: Tensor, time: Tensor, x_t: Tensor, after: Tensor, step: int
    ) -> Call:
        """From the scheduler's own tables and functions."""
        if hasattr(scheduler, "alphas_cumprod"):
            alpha = scheduler.alphas_cumprod[int(time)] ** 0.5
            sigma = (1 - alpha**2) ** 0.5
            if scheduler.config.prediction_type == "v_prediction":
                return Call(float(time), x_t, alpha * x_t - sigma * output)
            return Call(float(time), x_t, (x_t - sigma * output) / alpha)
        sigma = scheduler.sigmas[step]
        if hasattr(scheduler, "precondition_outputs"):
            return Call(float(sigma), x_t, scheduler.precondition_outputs(x_t, output, sigma))
        skip, out = scheduler.get_scalings_for_boundary_condition(sigma)
        return Call(float(sigma), x_t, out * output + skip * x_t)

    def end(self, pipe: Any, teacher: Network, steps: int, guidance: float) -> Tensor:
        """x0 before it is shown; the folder of DDPM is opened for DDIM."""
        if type(pipe).__name__ == "DDPMPipeline":
            pipe = DDIMPipeline.from_pipe(pipe)
            pipe.set_progress_bar_config(disable=True)
        return self._steps(pipe, teacher, steps)[-1][3]

    def start(self, pipe: Any, teacher: Network) -> Tensor:
        spread = teacher.schedule.init_noise_sigma(torch.tensor(teacher.schedule.start))
        return self.noise() * pipe.scheduler.init_noise_sigma / spread

    def stranger(self, student: Network) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Its initial latents are such as the pipeline makes."""
        start = student.schedule.init_noise_sigma(torch.tensor(student.sampler.timesteps[0]))
        given = 2, self.labels_of(student)
        return [(given, {"latents": start * self.noise(), **(student.call_settings or {})})]
