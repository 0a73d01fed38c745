"""The probe: what the student makes of a fixed noise now and then, beside the teacher."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import DistillConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.sampler import Denoise
from pipeline.methods.dmd import DMD
from pipeline.methods.microbatch import NoiseSample
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import sample_teacher
from pipeline.training.detectors.detector import CriticProbe, Probe

_MOST, _LEAST, _NUMBERS = 64, 16, 2**25
"""Images of a probe, at most and at least, and the numbers in all of them that are enough."""
_CONDITIONS, _EACH = 16, 4
"""Conditions at most, and images of each at least."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class _Rows:
    """Some rows of a probe, on this worker's device."""

    noise: Tensor
    labels: Tensor | None
    condition: Condition
    critic: NoiseSample


class Prober:
    """Makes probes. Every worker makes a part of each, so all call it together.

    It draws nothing: noise and times follow from the seed and the row.

    Args:
        method: Of the run.
        teacher: Frozen, without guidance.
        solver: How its images are made: name, steps, guidance.
        distill: The critic is asked at its levels of noise. Networks are called with as many rows
            as in training, so that none is compiled for others.
        seed: Of the run.
        accelerator: Of the workers.
    """

    def __init__(
        self,
        method: DMD,
        teacher: Denoiser,
        solver: tuple[str, int, Guidance],
        distill: DistillConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self._method, self._teacher, self._solver = method, teacher, solver
        last = len(method.sampler.timesteps) - 1
        self._span = method.space(last).within(distill.critic.range)
        self._rows = distill.batch_size // distill.lanes
        self._seed, self._accelerator = seed, accelerator
        most = max(_LEAST, min(_MOST, _NUMBERS // math.prod(method.shape)))
        self._conditions = min(teacher.classes or 1, _CONDITIONS, most // _EACH)
        self.count = most - most % self._conditions

    @torch.no_grad()
    def __call__(self, student: Denoise, critic: Any | None) -> Probe:
        """A probe of the networks as they are now, the same on every worker.

        Args:
            student, critic: Bare, in training; without a critic nothing is asked of one.
        """
        parts = self._parts
        images = [self._method.sampler.images(student, x.noise, x.condition) for x in parts]
        teacher, unguided, noise = self._fixed
        found = None
        if critic is not None:
            products = [self._products(critic, *each) for each in zip(images, parts, strict=True)]
            found = CriticProbe(self._levels(torch.arange(self.count)), self._all(products))
        groups = torch.arange(self.count) % self._conditions
        return Probe(self._all(images), teacher, unguided, noise, groups, found)

    @cached_property
    def _parts(self) -> list[_Rows]:
        """This worker's rows; the last ones fill up, so that every worker has as many calls."""
        workers, rank = self._accelerator.num_processes, self._accelerator.process_index
        own = -(-self.count // workers)
        places = rank * own + torch.arange(-(-own // self._rows) * self._rows)
        return [self._at(each % self.count) for each in places.split(self._rows)]

    def _at(self, ids: Tensor) -> _Rows:
        device, shape = self._accelerator.device, self._method.shape
        noise, eps = (
            seeds.noise(self._seed, ids + more, shape, seeds.PROBE).to(device)
            for more in (0, self.count)
        )
        classes, labels = self._teacher.classes, None
        if classes is not None:
            labels = (ids % self._conditions * classes // self._conditions).to(device)
        t = self._method.schedule.time_from_fraction(self._levels(ids).to(device))
        condition = self._teacher.conditioner(labels, len(ids), device)
        return _Rows(noise, labels, condition, NoiseSample(t, eps))

    def _levels(self, ids: Tensor) -> Tensor:
        """Of the noise that the critic is shown, spread evenly over those that it learns at."""
        low, high = self._span
        return low + (high - low) * ((ids + 0.5) * _GOLDEN % 1)

    @cached_property
    def _fixed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's images, with and without guidance, and the noise in the last input."""
        solver, steps, wanted = self._solver

        def solved(guidance: Guidance | float) -> Tensor:
            return self._all(
                sample_teacher(self._teacher, x.noise, x.labels, solver, steps, guidance)
                for x in self._parts
            )

        teacher = solved(wanted)
        unguided = teacher if wanted.scale == 1 else solved(1.0)
        return teacher, unguided, self._all(self._last_noise(x.noise) for x in self._parts)

    def _last_noise(self, noise: Tensor) -> Tensor:
        """The noise that the student's last input has, of that of its first."""
        sampler, last = self._method.sampler, len(self._method.sampler.timesteps) - 1
        return seeds.renewed(noise, last - 1) if last and sampler.renoise else noise

    def _products(self, critic: Any, images: Tensor, rows: _Rows) -> Tensor:
        """As `CriticProbe.products`, of some rows."""
        last = len(self._method.sampler.timesteps) - 1
        x_t, t = rows.critic.add_noise(images, self._method.schedule), rows.critic.t
        x0 = critic(x_t, t, rows.condition, **({"step_index": last} if last else {}))
        apart = self._teacher(x_t, t, rows.condition) - x0
        values = torch.stack([x_t, x0, apart, torch.ones_like(x0), images - x0], 1)
        flat = values.flatten(2).double()
        weight = self._method.error_weight(t).double()[:, None, None] / flat.shape[2]
        return weight * (flat @ flat.mT)

    def _all(self, parts: Iterable[Tensor]) -> Tensor:
        """Of all rows on the CPU, of these of this worker."""
        own = -(-self.count // self._accelerator.num_processes)
        gathered = self._accelerator.gather(torch.cat(list(parts))[:own].contiguous())
        return gathered[: self.count].cpu()
