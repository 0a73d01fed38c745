"""Judge a student: its figures beside the teacher's and their floors, a verdict, and pictures."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.data.fetch import INPUTS, fetch_inputs
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.comparison import Maker, Source, Stream, in_process, tasks
from pipeline.evaluation.figures import (
    AgainstReal,
    AgainstTeacher,
    Sketches,
    against_real,
    against_teacher,
    compare_all,
    flat,
)
from pipeline.evaluation.figures_png import save_evaluation, save_failures, save_neighbours
from pipeline.evaluation.real import Real
from pipeline.evaluation.records import (
    Memory,
    clip_record,
    failures,
    features_record,
    real_reference,
    records,
    reference_record,
    remembered,
)
from pipeline.evaluation.speed import Speed, compare_speed, device_name, peak_mib, throughput, work
from pipeline.evaluation.statistics import KEPT, Sketch
from pipeline.evaluation.verdict import verdict
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.students import load_student
from pipeline.models.weights import weights_digest
from pipeline.utils.errors import UserError
from pipeline.utils.files import check_writable, write_file
from pipeline.utils.progress import progress

_LARGEST_BATCH = 1024
"""Images of the largest batch that is timed."""


@dataclass(frozen=True)
class Evaluation:
    """All figures.

    Attributes:
        teacher: Student against teacher.
        real: Both against real images.
        speed: Both against the clock.
        nfe_teacher: Network evaluations of one teacher image.
        seed: The run's seed.
        metrics: Every figure with its interval and floor, as `docs/evaluation.md` describes.
    """

    teacher: AgainstTeacher
    real: AgainstReal
    speed: Speed
    nfe_teacher: int
    seed: int
    metrics: dict[str, Any]

    def figures(self) -> dict[str, float | int | None]:
        """The main figures by their names, in one flat table."""
        own = {"nfe_teacher": self.nfe_teacher, "seed": self.seed}
        return flat(self.teacher, self.real, self.speed) | own


def evaluate(config: Config, stream: Stream = in_process) -> Evaluation:
    """Compare the configured student with its teacher and with the real images.

    Writes `evaluation.json` and `evaluation.png` to `evaluate.output`, with real images
    `neighbours.png` and with a classifier `failures.png` too, and prints a table and a verdict.

    Args:
        config: Of the run.
        stream: Who makes and reads the images.

    Raises:
        UserError: If a network or the images cannot be loaded or do not fit each other, the
            output cannot be written, or a network makes values that are not finite.
    """
    output = Path(config.evaluate.output)
    check_writable(output, "evaluate.output")
    config = fetch_inputs(config, *INPUTS)
    maker = open_maker(config)
    sets, peak = _read(maker, stream)
    memory = remembered(sets) if "real" in sets else None
    evaluation = _judge(maker, sets, memory)
    evaluation.metrics["memory"] = {"makers_peak_mib": peak, "own_peak_mib": peak_mib()}
    figures: dict[str, Any] = {**evaluation.figures()}
    if judged := weights_digest(config.evaluate.student):
        figures["student"] = judged
    figures["metrics"] = evaluation.metrics
    figures["verdict"] = verdict(figures)
    save_evaluation(maker, config.pairs.steps, output / "evaluation.png")
    save_neighbours(maker, memory, output / "neighbours.png")
    save_failures(maker, evaluation.metrics["failures"], output / "failures.png")
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_file(output / "evaluation.json", text.encode())
    print("\n".join([summary(evaluation), *figures["verdict"]]))
    print(f"picture  {output / 'evaluation.png'}\nfigures  {output / 'evaluation.json'}")
    return evaluation


def open_maker(
    config: Config, real: Real | None = None, classifier: Classifier | None = None
) -> Maker:
    """What makes and reads the images of the configured networks, from local folders.

    Args:
        config: Of the run.
        real, classifier: Those of another process, in place of new ones.

    Raises:
        UserError: If a network or the images cannot be loaded or do not fit each other.
    """
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
    return Maker(config, student, teacher, real, classifier)


def _read(maker: Maker, stream: Stream) -> tuple[Sketches, int]:
    """What is kept of every set, and the most memory that a process which made them held."""
    sets: dict[Source, Sketch] = {}
    for source, count in maker.sources.items():
        made = source in ("teacher", "student", "floor")
        sets[source] = Sketch(
            count,
            maker.labels(source),
            maker.real.kept if maker.real and source in ("real", "held_out") else KEPT,
            whole_pixels=made and maker.whole_pixels,
        )
    peak = 0
    with progress(sum(maker.sources.values()), "evaluate", "images") as bar:
        for batch in stream(maker, tasks(maker)):
            sets[batch.task.source].take(batch.task.first, batch.rows)
            peak = max(peak, batch.peak)
            bar.update(batch.task.stop - batch.task.first)
    return sets, peak


def _judge(maker: Maker, sets: Sketches, memory: Memory | None) -> Evaluation:
    config, compared = maker.config, compare_all(sets)
    comparisons = records(compared.teacher, _teacher_reference(config))
    real = AgainstReal()
    if (reference := real_reference(maker)) is not None:
        real = against_real(sets, compared.real)
        comparisons += records(compared.real, reference)
        comparisons += records(compared.half, {**reference, "name": "real, half"})
    speed, costs = _speed(maker)
    metrics = {
        "features": features_record(maker),
        "comparisons": comparisons,
        "reference": reference_record(maker),
        "clip": clip_record(sets, maker),
        "neighbours": memory and memory.record,
        "failures": failures(sets["student"], sets["teacher"]),
        "speed": costs,
    }
    versus = against_teacher(sets, compared.teacher)
    return Evaluation(versus, real, speed, costs["teacher"]["nfe"], config.seed, metrics)


def _teacher_reference(config: Config) -> dict[str, str]:
    pairs = config.pairs
    content = [teacher_fingerprint(config.teacher), pairs.solver, pairs.steps, pairs.guidance]
    digest = hashlib.sha256(json.dumps([*content, config.seed]).encode()).hexdigest()
    return {"name": "teacher", "fingerprint": digest}


def _speed(maker: Maker) -> tuple[Speed, dict[str, Any]]:
    """Latency side by side, then each one's best rate and its work."""
    largest = min(_LARGEST_BATCH, maker.config.evaluate.count, maker.config.evaluate.batch_size)
    noise, labels = maker.noise("student", torch.arange(largest)), maker.labels("student")
    labels = None if labels is None else labels[:largest]
    one: tuple[Tensor, Tensor | None] = (noise[:1], None if labels is None else labels[:1])
    speed = compare_speed(maker.by_student, maker.by_teacher, *one)
    costs: dict[str, Any] = {"device": device_name(maker.device)}
    for name, network, by, latency in (
        ("student", maker.student, maker.by_student, speed.latency_ms),
        ("teacher", maker.teacher, maker.by_teacher, speed.teacher_latency_ms),
    ):
        best, done = throughput(by, noise, labels), work(by, network, *one)
        costs[name] = {"latency_ms": latency, **best._asdict(), **done._asdict()}
    return speed, costs


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
        text = (
            ""
            if value is None
            else f"{value}"
            if isinstance(value, int)
            else f"{round(value, 3) + 0:.3f}"
        )
        return f"{text:>10}"

    lines = [" " * 24 + "".join(f"{word:>10}" for word in ("student", "teacher", "floor", "n"))]
    for title, *names in _TABLE:
        values = [figures[name] if name else None for name in names]
        if any(value is not None for value in values[:3]):
            lines.append(f"{title:24}" + "".join(cell(value) for value in values).rstrip())
    return "\n".join(lines)
