"""Judge a student: its figures beside the teacher's and their floors, and a picture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.comparison import (
    AgainstReal,
    AgainstTeacher,
    Images,
    Judge,
    Speed,
    against_real,
    against_teacher,
    compare_speed,
    generate,
    generators,
    real_judge,
)
from pipeline.config import Config
from pipeline.data.fetch import INPUTS, fetch_inputs
from pipeline.diffusion import seeds
from pipeline.diffusion.solver import evaluations
from pipeline.errors import UserError
from pipeline.files import check_writable, write_file
from pipeline.models.build import load_student, load_teacher
from pipeline.models.denoiser import Denoiser
from pipeline.models.weights import weights_digest
from pipeline.pictures import save_grid


@dataclass(frozen=True)
class Evaluation:
    """All figures; `evaluation.json` holds them in one flat table.

    Attributes:
        teacher: Student against teacher.
        real: Both against real images.
        speed: Both against the clock.
        nfe_teacher: Network evaluations of one teacher image; the student's has one.
        seed: The run's seed.
    """

    teacher: AgainstTeacher
    real: AgainstReal
    speed: Speed
    nfe_teacher: int
    seed: int

    def figures(self) -> dict[str, float | int | None]:
        """Every figure by its name."""
        parts = [asdict(part) for part in (self.teacher, self.real, self.speed)]
        parts.append({"nfe_teacher": self.nfe_teacher, "seed": self.seed})
        return {name: value for part in parts for name, value in part.items()}


def evaluate(config: Config) -> Evaluation:
    """Compare the configured student with its teacher and with the real images.

    Writes `evaluation.json` and `evaluation.png` to `evaluate.output`, and prints a table.

    Raises:
        UserError: If a network or the images cannot be loaded or do not fit each other, the
            output cannot be written, or a network makes values that are not finite.
    """
    output = Path(config.evaluate.output)
    check_writable(output, "evaluate.output")
    config = fetch_inputs(config, *INPUTS)
    student = load_student(
        config.evaluate.student, config.teacher, config.distill.student.embedded_guidance
    )
    teacher = load_teacher(config.teacher)
    if (student.shape, student.classes) != (teacher.shape, teacher.classes):
        raise UserError(
            f"evaluate.student: {config.evaluate.student} makes {student.shape} images of "
            f"{student.classes} classes, its teacher {teacher.shape} of {teacher.classes}; "
            "name the student of this teacher"
        )
    judge = real_judge(config, teacher)
    evaluation, images = _compare(config, student, teacher, judge)
    steps = f"teacher, {config.pairs.steps} steps"
    _save_picture(images, teacher, steps, output / "evaluation.png")
    figures: dict[str, object] = {**evaluation.figures()}
    if judged := weights_digest(config.evaluate.student):
        figures["student"] = judged
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_file(output / "evaluation.json", text.encode())
    print(summary(evaluation))
    print(f"picture  {output / 'evaluation.png'}\nfigures  {output / 'evaluation.json'}")
    return evaluation


def _compare(
    config: Config, student: Denoiser, teacher: Denoiser, judge: Judge | None
) -> tuple[Evaluation, Images]:
    """All figures, and the images of student against teacher."""
    by_student, by_teacher = generators(config, student, teacher)
    count, size = config.evaluate.count, config.evaluate.batch_size

    def noise(first: int, count: int, stream: int = seeds.EVALUATION) -> Tensor:
        return seeds.noise(config.seed, torch.arange(first, first + count), teacher.shape, stream)

    def both(noise: Tensor, labels: Tensor | None) -> Images:
        one_step = generate(by_student, noise, labels, size, "student")
        many_steps = generate(by_teacher, noise, labels, size, "teacher")
        return Images(noise, labels, one_step, many_steps)

    labels = None if teacher.classes is None else torch.arange(count) % teacher.classes
    images = both(noise(0, count), labels)
    other = generate(by_teacher, noise(0, count, seeds.FLOOR), labels, size, "teacher, for floor")
    real = AgainstReal()
    if judge is not None:
        same_labels = None if teacher.classes is None else judge.real.labels
        real = against_real(both(noise(count, len(judge.real.labels)), same_labels), judge)
    speed = compare_speed(
        by_student, by_teacher, images.noise[:1], None if labels is None else labels[:1]
    )
    solver, steps, guidance = config.pairs.solver, config.pairs.steps, config.pairs.guidance
    calls = evaluations(solver, steps) * (1 if guidance == 1 else 2)
    versus = against_teacher(images, other, judge)
    return Evaluation(versus, real, speed, calls, config.seed), images


def _save_picture(images: Images, teacher: Denoiser, steps: str, path: Path) -> None:
    """Two columns for each of the first ten classes: noise, teacher, student."""
    columns, headings = torch.arange(min(20, len(images.noise))), []
    if images.labels is not None:
        chosen = [(images.labels == label).nonzero()[:2] for label in range(10)]
        columns = torch.cat(chosen).flatten()
        headings = [str(label) for label in images.labels[columns].tolist()]
    rows = {
        "noise": images.noise[columns] / 3,
        steps: images.teacher[columns],
        "student, 1 step": images.student[columns],
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shown = {caption: teacher.decode(row.to(device)).cpu() for caption, row in rows.items()}
    save_grid(shown, path, columns=headings)


_TABLE = (
    ("Fréchet to teacher", "fd_teacher", None, "fd_floor", "n_teacher"),
    ("Fréchet, pixels", "pixel_fd", None, "pixel_fd_floor", "n_teacher"),
    ("accuracy", "accuracy", "teacher_accuracy", None, "n_teacher"),
    ("Fréchet to real images", "fd_real", "teacher_fd_real", None, "n_real"),
    ("real, half to half", None, None, "real_floor", "n_real_floor"),
    ("precision", "precision", "teacher_precision", None, "n_real"),
    ("recall", "recall", "teacher_recall", None, "n_real"),
    ("ms per image, batch 1", "latency_ms", "teacher_latency_ms", None, None),
)
"""Title, and the figures of student, teacher, floor, and n."""


def summary(evaluation: Evaluation) -> str:
    """The main figures as a small table."""
    figures = evaluation.figures()

    def cell(value: float | int | None) -> str:
        text = "" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3f}"
        return f"{text:>10}"

    lines = [" " * 24 + "".join(f"{word:>10}" for word in ("student", "teacher", "floor", "n"))]
    for title, *names in _TABLE:
        values = [figures[name] if name else None for name in names]
        if any(value is not None for value in values[:3]):
            lines.append(f"{title:24}" + "".join(cell(value) for value in values).rstrip())
    ratio = f"{evaluation.speed.speedup:.0f} times faster"
    lines.append(f"{ratio} than the teacher's {evaluation.nfe_teacher} network evaluations")
    return "\n".join(lines)
