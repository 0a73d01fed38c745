"""Evaluate a student: figures beside the teacher's and their floors, a verdict, and pictures."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import (
    Config,
    PairsConfig,
    TeacherConfig,
)
from pipeline.data.fetch import INPUTS, fetch_inputs
from pipeline.evaluation.captions import caption_figures, open_judged
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.comparison import compare_all
from pipeline.evaluation.failures import failures
from pipeline.evaluation.figures import (
    AgainstReal,
    AgainstTeacher,
    against_real,
    against_teacher,
)
from pipeline.evaluation.figures_png import (
    save_captions,
    save_evaluation,
    save_failures,
    save_neighbours,
)
from pipeline.evaluation.image_reader import ImageReader, Stream, in_process, tasks
from pipeline.evaluation.image_sets import ImageSets, SetName, are_small
from pipeline.evaluation.memorization import Memorization, memorization
from pipeline.evaluation.readouts import Readouts
from pipeline.evaluation.real import RealSet, TrainingImages, open_training_images, training_set
from pipeline.evaluation.records import (
    comparison_records,
    features_record,
    real_reference,
    reference_record,
)
from pipeline.evaluation.reference import open_reference
from pipeline.evaluation.scores import diversity_record, score_records, score_summary
from pipeline.evaluation.speed import Speed, compare_speed, device_name, peak_mib, throughput, work
from pipeline.evaluation.statistics import KEPT, SetStatistics, Statistics
from pipeline.evaluation.summary import caption_summary, summary
from pipeline.evaluation.verdict import verdict
from pipeline.models.denoiser import Denoiser
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.perceptual.features import load_features
from pipeline.models.scores import load_scores
from pipeline.models.students import check_student, load_student
from pipeline.models.weights import weights_digest
from pipeline.utils.errors import UserError
from pipeline.utils.files import check_writable, write_file
from pipeline.utils.progress import Progress

_DEFINING: Any = {
    **dict.fromkeys(("seed", "data", "network", "teacher", "pairs"), True),
    **{
        "evaluate": {"count", "batch_size", "features"},
        "distill": {"student": {"embedded_guidance"}},
    },
}
"""Settings that may change the images of an evaluation, or what is read of them."""
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
        parts = (asdict(part) for part in (self.teacher, self.real, self.speed))
        found = {name: value for part in parts for name, value in part.items()}
        return found | {"nfe_teacher": self.nfe_teacher, "seed": self.seed}


def evaluate(config: Config, stream: Stream = in_process) -> Evaluation:
    """Compare the configured student with its teacher and with the real images.

    Writes `evaluation.json` and `evaluation.png` to `evaluate.output`, with real images
    `neighbours.png` and with a classifier `failures.png` too, and prints a table and a verdict.

    Args:
        config: Of the run.
        stream: Who makes and reads the images.

    Raises:
        UserError: If a network or the images cannot be loaded or do not fit each other, the
            output cannot be written, a network makes values that are not finite, or the student is
            replaced meanwhile.
    """
    output = Path(config.evaluate.output)
    check_writable(output, "evaluate.output")
    config = fetch_inputs(config, *INPUTS)
    reader = open_reader(config)
    of_captions = None
    if (settings := config.evaluate).judged:
        parts = open_judged(settings, str(config.data.folder), config.data.size, config.s3)
        networks = {"student": reader.sets.student, "teacher": reader.sets.teacher}
        more = reader.sets.seed, reader.net
        of_captions = caption_figures(parts, networks, config.pairs, settings, *more)
    defining = config.model_dump(mode="json", include=_DEFINING)
    readouts = Readouts(Path(config.run) / "readouts", reader, defining, config.evaluate.student)
    sets, peak = _read(reader, config.evaluate.batch_size, readouts.before(stream))
    found = memorization(sets) if "real" in sets else None
    evaluation = _evaluation(
        reader,
        sets,
        found,
        _teacher_reference(config.teacher, config.pairs, config.seed),
        batch_size=config.evaluate.batch_size,
        data=config.data.name,
    )
    evaluation.metrics["memory"] = {"makers_peak_mib": peak, "own_peak_mib": peak_mib()}
    figures: dict[str, Any] = {**evaluation.figures()}
    if (digest := weights_digest(config.evaluate.student)) != reader.weights["evaluate.student"]:
        raise UserError(
            f"evaluate.student: {config.evaluate.student} was replaced while it was evaluated; run "
            "the same command again"
        )
    if digest:
        figures["student"] = digest
    if of_captions is not None:
        figures |= of_captions.main
        evaluation.metrics["captions"] = of_captions.records
        evaluation.metrics["caption_diversity"] = of_captions.diversity
    figures["metrics"] = evaluation.metrics
    figures["verdict"] = verdict(figures)
    save_evaluation(reader.sets, config.pairs.steps, output / "evaluation.png")
    save_neighbours(reader.sets, found, output / "neighbours.png")
    save_failures(reader.sets, evaluation.metrics["failures"], output / "failures.png")
    save_captions(of_captions, output / "captions.png")
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    write_file(output / "evaluation.json", text.encode())
    readouts.remove_others()
    lines = [summary(evaluation.figures())]
    lines += score_summary(evaluation.metrics)
    lines += [caption_summary(of_captions.main)] if of_captions else []
    print("\n".join([*lines, *figures["verdict"]]))
    print(f"picture  {output / 'evaluation.png'}\nfigures  {output / 'evaluation.json'}")
    return evaluation


def open_reader(
    config: Config, real: RealSet | None = None, classifier: Classifier | None = None
) -> ImageReader:
    """What makes and reads the images of the configured networks, from local folders.

    Args:
        config: Of the run.
        real, classifier: Those of another process, in place of new ones.

    Raises:
        UserError: If a network or the images cannot be loaded or do not fit each other, or nothing
            could compare images of the teacher's size.
    """
    evaluate = config.evaluate
    makers = {
        "evaluate.student": weights_digest(evaluate.student),
        "teacher.output": teacher_fingerprint(config.teacher),
    }
    student = load_student(
        evaluate.student, config.teacher, config.distill.student.embedded_guidance
    )
    teacher = load_teacher(config.teacher)
    check_student(student, teacher, evaluate.student)
    net, scores = load_features(evaluate), load_scores(evaluate, teacher.prompts, config.s3)
    if net is None and training_set(config.teacher, config.data) is None:
        _check_values(teacher, evaluate.reference)
    real = real or open_training_images(config.teacher, config.data, teacher)
    real = real or open_reference(evaluate, config.s3, teacher)
    if isinstance(real, TrainingImages):
        classifier = classifier or real.train_classifier()
    sets = ImageSets(
        student,
        teacher,
        pairs=config.pairs,
        count=evaluate.count,
        seed=config.seed,
        real=real,
    )
    return ImageReader(sets, classifier=classifier, net=net, scores=scores, makers=makers)


def _check_values(teacher: Denoiser, reference: str | None) -> None:
    """Whether images can be compared by their values alone."""
    why = None
    if not are_small(teacher):
        why = f"the teacher's {teacher.shape} are too large to compare their values"
    elif reference and teacher.latents is not None:
        why = "the teacher's latents are no values of evaluate.reference"
    if why is not None:
        raise UserError(
            f"evaluate.features: classifier has no real images to learn from (data.name), and "
            f"{why}; use dinov2, inception or efficientnet-lite0"
        )


def _read(reader: ImageReader, batch_size: int, stream: Stream) -> tuple[Statistics, int]:
    """What is kept of every set, and the most memory that a process which made them held."""
    sets = {name: _statistics(reader.sets, name) for name in reader.sets.counts}
    peak = 0
    with Progress(sum(reader.sets.counts.values()), "evaluate", "images") as bar:
        for batch in stream(reader, tasks(reader.sets, batch_size)):
            sets[batch.task.name].take(batch.task.first, batch.readout)
            peak = max(peak, batch.peak)
            bar.update(batch.task.stop - batch.task.first)
    return sets, peak


def _statistics(sets: ImageSets, name: SetName) -> SetStatistics:
    return SetStatistics(
        sets.counts[name],
        sets.labels(name),
        sets.real.kept if sets.real and name in ("real", "held_out") else KEPT,
        whole_pixels=sets.whole_pixels and name in ("teacher", "student", "floor"),
    )


def _evaluation(
    reader: ImageReader,
    sets: Statistics,
    found: Memorization | None,
    teacher: dict[str, str],
    *,
    batch_size: int,
    data: str | None,
) -> Evaluation:
    """What comes of the sets; `teacher` names the teacher's images, `data` those it learnt from."""
    compared, real = compare_all(sets), reader.sets.real
    comparisons = comparison_records(compared.teacher, teacher)
    figures = AgainstReal()
    if real is not None:
        figures, reference = against_real(sets, compared.real), real_reference(real)
        comparisons += comparison_records(compared.real, reference)
        comparisons += comparison_records(compared.half, {**reference, "name": "real, half"})
    speed, costs = _speed(reader.sets, batch_size)
    metrics = {
        "features": features_record(reader, data),
        "comparisons": comparisons,
        "reference": reference_record(real),
        "scores": score_records(sets, reader.scores),
        "diversity": diversity_record(sets),
        "neighbours": found and found.record,
        "failures": failures(sets["student"], sets["teacher"]),
        "speed": costs,
    }
    versus = against_teacher(sets, compared.teacher)
    return Evaluation(versus, figures, speed, costs["teacher"]["nfe"], reader.sets.seed, metrics)


def _teacher_reference(teacher: TeacherConfig, pairs: PairsConfig, seed: int) -> dict[str, str]:
    content = [teacher_fingerprint(teacher), pairs.solver, pairs.steps, pairs.guidance, seed]
    content += pairs.guided.beyond_scale.items()
    content += [teacher.image_size] if teacher.image_size != teacher.first_size else []
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return {"name": "teacher", "fingerprint": digest}


def _speed(sets: ImageSets, batch_size: int) -> tuple[Speed, dict[str, Any]]:
    """Latency side by side, then each one's best rate and its work."""
    largest = min(_LARGEST_BATCH, sets.count, batch_size)
    noise, labels = sets.noise("student", torch.arange(largest)), sets.labels("student")
    labels = None if labels is None else labels[:largest]
    one: tuple[Tensor, Tensor | None] = (noise[:1], None if labels is None else labels[:1])
    speed = compare_speed(sets.by_student, sets.by_teacher, *one)
    costs: dict[str, Any] = {"device": device_name(sets.device)}
    for name, network, by, latency in (
        ("student", sets.student, sets.by_student, speed.latency_ms),
        ("teacher", sets.teacher, sets.by_teacher, speed.teacher_latency_ms),
    ):
        best, done = throughput(by, noise, labels), work(by, network, *one)
        costs[name] = {"latency_ms": latency, **best._asdict(), **done._asdict()}
    return speed, costs
