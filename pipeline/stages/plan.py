"""What a run comes to, from its settings and what is on this machine."""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

from pydantic_core import from_json

from pipeline.config import Config, DistillConfig, PairsConfig, TeacherConfig
from pipeline.config.no_effect import no_effect
from pipeline.diffusion.buckets import Buckets
from pipeline.diffusion.solver import SOLVERS
from pipeline.methods.recipe import Recipe
from pipeline.methods.terms.term import NetworkCalls
from pipeline.models.folder import INDEX
from pipeline.stages import to_do
from pipeline.stages.to_do import ToDo, encodes, made


def teacher_calls(pairs: PairsConfig) -> int:
    """Network evaluations of one pair, at most; guidance takes two at every step that has it."""
    return SOLVERS[pairs.solver].evaluations(pairs.steps) * (1 if pairs.guidance == 1 else 2)


def pair_bytes(shape: tuple[int, ...]) -> int:
    """Of one stored pair: noise and image in fp16, id and label."""
    return 2 * 2 * prod(shape) + 8 + 8


def set_bytes(count: int, buckets: Buckets) -> int:
    """Of so many pairs, in the shares of their buckets."""
    parts = zip(buckets.shapes, buckets.weights, strict=True)
    return count * sum(pair_bytes(shape) * w for shape, w in parts) // sum(buckets.weights)


def _stored_shape(teacher: TeacherConfig) -> tuple[int, ...] | None:
    """Of the teacher that is there already, if there is one, at its own size."""
    try:
        unet = from_json((Path(teacher.output) / "unet" / "config.json").read_text())
    except (OSError, ValueError):
        return None
    match unet:
        case {"in_channels": int(channels), "sample_size": int(side)}:
            return channels, side, side
        case {"in_channels": int(channels), "sample_size": [int(height), int(width)]}:
            return channels, height, width
    return None


def guidance_hints(teacher: TeacherConfig, guidance: float) -> list[str]:
    """A line where prompts steer a teacher at no guidance, which its pipeline does not do.

    Raises:
        UserError: If the teacher's folder cannot be read.
    """
    if guidance != 1 or teacher.kind != "diffusers":
        return []
    from pipeline.models.encoders import own_guidance  # diffusers: takes seconds

    if (own := own_guidance(teacher)) == 1:
        return []
    return [
        f"pairs.guidance is 1, so the teacher follows its prompts loosely: its pipeline has a "
        f"guidance_scale of {own:g} where it is told none; set pairs.guidance, unless this model "
        "was distilled with guidance"
    ]


def training_calls(distill: DistillConfig, guidance: float) -> NetworkCalls:
    """Images through the networks in all of training, under a scale of guidance."""
    return Recipe.of(distill).network_calls(1 if guidance == 1 else 2)


class Plan:
    """What a run of all its jobs comes to, what they lack, and which are left.

    Args:
        config: Of the run.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._needs = config, Recipe.of(config.distill).needs

    @property
    def lines(self) -> list[str]:
        """What each part comes to."""
        config = self._config
        distill, encode, embed = config.distill, config.encode, config.embed
        first, burn_in = distill.regression_steps, distill.burn_in_steps
        dmd = distill.steps - first - burn_in
        every = sum(bucket.weight for bucket in config.teacher.buckets)
        shares = (f"{'x'.join(map(str, b.size))} ({b.weight})" for b in config.teacher.buckets)
        against = f", against {config.evaluate.reference}" if config.evaluate.reference else ""
        return [
            f"teacher: {self._teacher}",
            *([f"buckets: of {every} microbatches {', '.join(shares)}"] if every else []),
            *([f"encode: images of {encode.source}"] if encodes(distill) else []),
            *([f"embed: all prompts into {embed.output}"] if self._stored else []),
            *(self._pairs if self._needs.pairs else []),
            f"distill: {distill.steps} steps: {first} regression, {burn_in} critic burn-in, "
            f"{dmd} DMD with {dmd // distill.student.every} student steps",
            f"evaluate: {config.evaluate.count} images per network{against}",
        ]

    @property
    def problems(self) -> list[str]:
        """Inputs that are to be given and are not on this machine, by their settings."""
        config = self._config
        teacher, data = config.teacher, config.data
        return [
            *to_do.of_teacher(teacher, data, config.icons.output),
            *to_do.of_prompts(teacher, data, config.encode),
            *(to_do.of_encode(config.encode) if encodes(config.distill) else ()),
            *to_do.of_losses(config.distill),
            *to_do.of_evaluation(config.evaluate, data),
        ]

    @property
    def hints(self) -> list[str]:
        """What runs, and probably not as it is meant."""
        teacher, idle = self._config.teacher, no_effect(self._config.distill)
        if not (Path(teacher.output) / INDEX).is_file():
            return idle
        return [*idle, *guidance_hints(teacher, self._config.pairs.guidance)]

    def jobs(self) -> Iterator[ToDo]:
        """Those that the run needs, in their order, and what is made of the student."""
        config, teacher = self._config, self._config.teacher
        if to_do.drawn(config.data, config.icons.output):
            yield made("icons", config.icons.output)
        if teacher.kind == "diffusers" and (config.data.name or teacher.file):
            yield made("teacher", teacher.output, "*.json")
        if encodes(config.distill):
            yield made("encode", config.encode.output, "manifest-*")
        if self._stored:
            yield made("embed", config.embed.output, "manifest-*")
        yield ToDo("doctor", "what would stop the rest, its time and price")
        if self._needs.pairs:
            yield made("pairs", config.pairs.output, f"manifest-{config.pairs.count}.json")
        yield made("distill", config.distill.output, "student/provenance.json")
        yield ToDo("evaluate", f"evaluate.output {config.evaluate.output}: figures and a report")
        yield ToDo("export", f"export.output {config.export.output}")

    def told(self, command: Callable[[str], str]) -> list[str]:
        """All of it, line by line.

        Args:
            command: Name of a job -> what runs it for this run.
        """
        jobs = [(command(each.job), each) for each in self.jobs()]
        width = max(len(run) for run, _ in jobs)
        return [
            *self.lines,
            *(f"missing: {problem}" for problem in self.problems),
            *(f"note: {hint}" for hint in self.hints),
            "jobs, in this order:",
            *(f"  {run:{width}}  # {'done: ' * each.done}{each.why}" for run, each in jobs),
        ]

    @property
    def _stored(self) -> bool:
        return self._config.distill.conditions == "stored"

    @property
    def _teacher(self) -> str:
        teacher = self._config.teacher
        if teacher.kind == "gaussian":
            return "analytic"
        if teacher.file:
            return f"read from {teacher.file}"
        if self._config.data.name:
            return f"{teacher.training.steps} training steps"
        return teacher.output

    @property
    def _pairs(self) -> list[str]:
        config, pairs = self._config, self._config.pairs
        teacher = config.teacher
        of_images = config.data.name and not teacher.file and teacher.training.kind == "classes"
        described = teacher.kind == "gaussian" or of_images
        shape = _stored_shape(teacher) or (config.shape if described else None)
        calls, most = teacher_calls(pairs), "at most " if pairs.guidance_until < 1 else ""
        size = ""
        if shape and not teacher.first_size:
            size = f", {pairs.count * pair_bytes(shape)} bytes on disk"
        return [
            f"pairs: {pairs.count} pairs in {pairs.count // pairs.shard_size} shards{size}",
            f"pairs: {most}{calls} teacher evaluations per pair ({pairs.solver}, {pairs.steps} "
            f"steps, {pairs.precision}), {calls * pairs.count} in all",
        ]
