"""Student and teacher, ready to make an image of any class or prompt and of any noise."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from pipeline.config import PairsConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.seeds import slerp
from pipeline.models.condition import Prompts
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import network_calls, sample_student, sample_teacher
from pipeline.models.students import check_student
from pipeline.utils.errors import UserError
from pipeline.utils.image_grid import row_of

By = Literal["student", "teacher"]
_NETWORKS: dict[str, By] = {"student": "student", "teacher": "teacher"}

LONGEST = 1000
"""Characters of a prompt at most."""
MOST = 9
"""Images asked for at once at most."""


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        by: Which network.
        label: A class, or None for a network without classes.
        prompt: A text, or None for a network without prompts.
        first, second: Numbers of two noises; those of `jobs/sample.py`'s sheet.
        at: The way from the first noise, 0, to the second, 1.
        count: Images; more than one are of equal steps along the whole way.
    """

    by: By
    label: int | None
    prompt: str | None
    first: int
    second: int
    at: float
    count: int


@dataclass(frozen=True)
class Made:
    """Images side by side, their media type, and the milliseconds that the network took."""

    file: bytes
    kind: str
    milliseconds: float


class Studio:
    """Both networks on one device, one call at a time.

    Args:
        student, teacher: Networks for the same images and conditions.
        pairs: How the teacher makes an image: solver, steps, guidance.
        seed: Of the noises.

    Raises:
        UserError: If the networks do not fit each other.
    """

    def __init__(self, student: Denoiser, teacher: Denoiser, pairs: PairsConfig, seed: int) -> None:
        check_student(student, teacher)
        self.pairs, self.seed = pairs, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.student, self.teacher = student.to(self.device), teacher.to(self.device)
        self._lock = threading.Lock()

    @property
    def calls(self) -> dict[By, int]:
        """Network evaluations of one image."""
        pairs, own = self.pairs, len(self.student.sampler.timesteps)
        teachers = network_calls(self.teacher, pairs.solver, pairs.steps, pairs.guided)
        return {"student": own, "teacher": teachers}

    @property
    def prompts(self) -> list[str] | None:
        """Those that are known from the start; None for a network without prompts."""
        return None if self.student.prompts is None else list(self.student.prompts)

    @property
    def classes(self) -> int | None:
        """Number of classes; None for a network without them."""
        return None if self.prompts is not None else self.student.classes

    def wish(self, words: Mapping[str, str]) -> Wish:
        """Read what is asked for.

        Args:
            words: by, class or prompt, first, second, at and count, as text.

        Raises:
            UserError: If a word is missing, unknown or out of range.
        """
        known = {"by", "class", "prompt", "first", "second", "at", "count"}
        if unknown := sorted(words.keys() - known):
            raise UserError(f"{unknown[0]}: unknown; known are {', '.join(sorted(known))}")
        by = _NETWORKS.get(words.get("by", "student"))
        if by is None:
            raise UserError(f"by: {words['by']!r} is neither student nor teacher")
        label = prompt = None
        if self.prompts is not None:
            prompt = words.get("prompt", "")
            if len(prompt) > LONGEST:
                raise UserError(f"prompt: {len(prompt)} characters are more than {LONGEST}")
        elif self.classes is not None:
            label = _integer("class", words, 0, self.classes - 1)
        first, second = (_integer(name, words, 0, 2**32 - 1) for name in ("first", "second"))
        try:
            at = float(words.get("at", "0"))
        except ValueError:
            at = -1.0
        if not (isfinite(at) and 0 <= at <= 1):
            raise UserError(f"at: {words['at']!r} is no number from 0 to 1")
        count = _integer("count", {"count": "1", **words}, 1, MOST)
        return Wish(by, label, prompt, first, second, at, count)

    def make(self, wish: Wish) -> Made:
        """Make the images of a wish."""
        network = self.student if wish.by == "student" else self.teacher
        ways = torch.tensor([wish.at]) if wish.count == 1 else torch.linspace(0, 1, wish.count)
        with self._lock:  # of memory too there is one wish at a time
            one, two = (self._noise(number) for number in (wish.first, wish.second))
            noise = slerp(one, two, ways).to(self.device)
            labels = self._labels(network, wish)
            start = time.perf_counter()
            if wish.by == "student":
                images = sample_student(network, noise, labels)
            else:
                solver, steps, guidance = self.pairs.solver, self.pairs.steps, self.pairs.guided
                images = sample_teacher(network, noise, labels, solver, steps, guidance)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            spent = 1000 * (time.perf_counter() - start)
            shown = network.decode(images).cpu()
        return Made(*row_of(shown), spent)

    def _noise(self, number: int) -> Tensor:
        ids = torch.tensor([number])
        return seeds.noise(self.seed, ids, self.student.shape, stream=seeds.EVALUATION)

    def _labels(self, network: Denoiser, wish: Wish) -> Tensor | None:
        label = wish.label
        if wish.prompt is not None and isinstance(network.conditioner, Prompts):
            label = network.conditioner.label(wish.prompt)
        return None if label is None else torch.full((wish.count,), label, device=self.device)


def _integer(name: str, words: Mapping[str, str], least: int, most: int) -> int:
    text = words.get(name, "")
    if not (text.isdecimal() and text.isascii() and len(text) < 12 and least <= int(text) <= most):
        raise UserError(f"{name}: {text[:40]!r} is no whole number from {least} to {most}")
    return int(text)
