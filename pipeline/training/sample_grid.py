"""Pictures of a run: one noise through teacher, student and both scores; prompts of one's own."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.noise import diffuse
from pipeline.diffusion.sampler import Denoise
from pipeline.methods.dmd import DMD
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import sample_teacher

COLUMNS, EACH = 20, 4
"""Images of a row: of the grid, and of a prompt."""
LEVEL = 0.5
"""Where both scores look at the images: a fraction of `Schedule.time_from_fraction`."""


class SampleGrid:
    """Images from one fixed noise, at any time of a run.

    Args:
        method: Of the run.
        teacher: Frozen.
        denoise: The teacher under its guidance.
        solver, steps, guidance: How the teacher's images are made.
        seed: Of the noise.
        device: Of the networks.
    """

    def __init__(
        self,
        method: DMD,
        teacher: Denoiser,
        denoise: Denoise,
        solver: tuple[str, int, Guidance],
        seed: int,
        device: torch.device,
    ):
        self.method, self.teacher, self.denoise, self.solver = method, teacher, denoise, solver
        ids = torch.arange(COLUMNS)
        self.noise = seeds.noise(seed, ids, method.shape, stream=seeds.EVALUATION).to(device)
        self.labels = (ids % teacher.classes).to(device) if teacher.classes else None

    @cached_property
    def target(self) -> Tensor:
        """The teacher's images, solved once."""
        return sample_teacher(self.teacher, self.noise, self.labels, *self.solver)

    @cached_property
    def condition(self) -> Condition:
        """Of every column."""
        return self.teacher.conditioner(self.labels, COLUMNS, self.noise.device)

    @torch.no_grad()
    def rows(self, student: nn.Module, critic: nn.Module) -> dict[str, Tensor]:
        """Captioned rows of images, each (COLUMNS, C, H, W), on the CPU."""
        schedule = self.method.schedule
        images = self.method.sampler.images(student, self.noise, self.condition)
        t = schedule.time_from_fraction(self.noise.new_full((COLUMNS,), LEVEL))
        x_t = diffuse(images, self.noise.flip(0), t, schedule)
        rows = {
            "teacher": self.target,
            "student": images,
            "real x0": self.denoise(x_t, t, self.condition),
            "fake x0": critic(x_t, t, self.condition),
        }
        return {caption: self.teacher.decode(row.float()).cpu() for caption, row in rows.items()}


class PromptGrid:
    """The student's images of prompts, at any time of a run.

    Every prompt has the same noises, so that its images do not depend on the others.

    Args:
        method: Of the run.
        teacher: Decodes.
        prompts: The captions.
        conditions: Of every prompt, one row.
        seed: Of the noise.
        device: Of the networks.
    """

    def __init__(
        self,
        method: DMD,
        teacher: Denoiser,
        prompts: Sequence[str],
        conditions: Sequence[Condition],
        seed: int,
        device: torch.device,
    ) -> None:
        self._method, self._teacher, self._device = method, teacher, device
        self._prompts, self._conditions = prompts, conditions
        noise = seeds.noise(seed, torch.arange(EACH), method.shape, stream=seeds.EVALUATION)
        self._noise = noise.to(device)

    @torch.no_grad()
    def rows(self, student: nn.Module) -> dict[str, Tensor]:
        """Prompt -> images, each (EACH, C, H, W), on the CPU."""
        found = {}
        for prompt, row in zip(self._prompts, self._conditions, strict=True):
            condition = Condition.cat([row] * EACH).to(self._device)
            images = self._method.sampler.images(student, self._noise, condition)
            found[prompt] = self._teacher.decode(images.float()).cpu()
        return found
