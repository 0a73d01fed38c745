"""Images or videos of a student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.diffusion import seeds
from pipeline.models.condition import images_of
from pipeline.models.denoiser import Denoiser
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.utils.files import check_writable
from pipeline.utils.image_grid import save_grid

_WIDTH = 10
"""Images in a row."""


def sample(config: Config) -> None:
    """Save a sheet of images as a PNG: all classes in turn, or a row for each of some prompts.

    Raises:
        UserError: If the student cannot be loaded or the file cannot be written.
    """
    output = Path(config.sample.output)
    check_writable(output.parent, "sample.output")
    student = open_student(config)
    count, network = config.sample.count, student.network
    sheet = _in_turn if network.prompts is None else _by_prompt
    rows, headings = sheet(student, count)
    save_grid(rows, output, columns=headings)
    steps = len(network.sampler.timesteps)
    told = "1 step" if steps == 1 else f"{steps} steps"
    kind = "images" if next(iter(rows.values())).ndim == 4 else "videos"
    print(f"sample   {count} {kind}, {told} each: {output}")


@dataclass(frozen=True)
class Student:
    """A saved student, ready to make images.

    Args:
        network: In eval mode.
        device: That it is on.
        seed: Of the noises.
    """

    network: Denoiser
    device: torch.device
    seed: int

    def images(self, count: int, labels: Sequence[int] | None = None) -> Tensor:
        """Images of the first so many noises: more of them begin as fewer do.

        Args:
            count: How many.
            labels: A class for each, or the number of a prompt in `teacher.prompts`; by default
                all of them in turn.

        Returns:
            In about [-1, 1], on the device: (count, C, H, W), of videos
            (count, C, F, H, W).
        """
        ids = torch.arange(count)
        noise = seeds.noise(self.seed, ids, self.network.shape, stream=seeds.EVALUATION)
        given = self.labels(count) if labels is None else torch.tensor(labels)
        given = None if given is None else given.to(self.device)
        return self.network.decode(sample_student(self.network, noise.to(self.device), given))

    def labels(self, count: int) -> Tensor | None:
        """All classes or prompts in turn, (count,) int64; None for a student that has none."""
        classes = self.network.classes
        return None if classes is None else torch.arange(count) % classes


def _in_turn(student: Student, count: int) -> tuple[dict[str, Tensor], list[str]]:
    """Rows of the images of all classes in turn, and headings where a column has one class."""
    images, labels, headings = student.images(count), student.labels(count), list[str]()
    if labels is not None and _WIDTH % (student.network.classes or 1) == 0:
        headings = [f"{label}" for label in labels[:_WIDTH].tolist()]
    return {f"{n}": images[n : n + _WIDTH] for n in range(0, count, _WIDTH)}, headings


def _by_prompt(student: Student, count: int) -> tuple[dict[str, Tensor], list[str]]:
    """A row for each prompt, of several noises; the prompts lie evenly among all there are.

    Equal prompts beside which other images stand are told apart by their numbers.
    """
    prompts = student.network.prompts or ()
    unlike = {(prompt, *images_of(prompts, n)): n for n, prompt in enumerate(prompts)}
    numbers, most = list(unlike.values()), min(_WIDTH, len(unlike), count)
    each = -(-count // most)
    chosen = [numbers[row * len(numbers) // most] for row in range(-(-count // each))]
    images = student.images(count, [chosen[n // each] for n in range(count)])
    texts = [prompts[n] for n in chosen]
    titles = [
        text if texts.count(text) == 1 else f"{text} ({n})"
        for n, text in zip(chosen, texts, strict=True)
    ]
    return {title: images[row * each :][:each] for row, title in enumerate(titles)}, []


def open_student(config: Config) -> Student:
    """The student in `evaluate.student`, which is that of the run where nothing else is said.

    It is on the GPU if there is one, and takes `config.seed`.

    Raises:
        UserError: If there is none, or it cannot be loaded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    local = fetch_inputs(config, "evaluate")
    network = load_student(
        local.evaluate.student, local.teacher, local.distill.student.embedded_guidance
    )
    return Student(network.to(device), device, config.seed)
