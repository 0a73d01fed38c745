"""Make pairs: sample ids -> noise -> the teacher's ODE -> a stored shard."""

import hashlib
import socket
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from pipeline.config import PairsConfig, TeacherConfig
from pipeline.data import schema, shards
from pipeline.data.plans import PairPlan, bucket_fields
from pipeline.data.storage import Store
from pipeline.diffusion import seeds
from pipeline.diffusion.pairs import PairBatch
from pipeline.models.attention_backend import refusals_named, use_attention
from pipeline.models.compilation import compile_network
from pipeline.models.condition import PromptFile
from pipeline.models.denoiser import Denoiser
from pipeline.models.half import compute_in_half
from pipeline.models.loading import load_teacher, teacher_fingerprint
from pipeline.models.sampling import sample_teacher
from pipeline.utils.errors import UserError


def pair_plan(settings: TeacherConfig, pairs: PairsConfig, seed: int) -> PairPlan:
    """All that defines the content of the configured set.

    Raises:
        UserError: If the teacher cannot be loaded, has not as many classes as weights, or more
            buckets than the set has shards for.
    """
    teacher = load_teacher(settings)
    if teacher.prompts is not None and not teacher.prompts:
        raise UserError(
            f"teacher.prompts: {settings.output} takes text; give a file of prompts (.txt, "
            ".csv, .parquet, or the folder of a Hugging Face dataset)"
        )
    if pairs.weights is not None and len(pairs.weights) != teacher.classes:
        raise UserError(
            f"pairs.weights: {len(pairs.weights)} values, but the teacher has "
            f"{teacher.classes or 'no'} classes; give one per class, or null"
        )
    prompts = negative = None
    if teacher.prompts is not None:
        prompts = _digest(teacher.prompts)
        negative = settings.negative_prompt
    shapes, shares = bucket_fields(teacher.buckets)
    plan = PairPlan(
        teacher=teacher_fingerprint(settings),
        seed=seed,
        solver=pairs.solver,
        steps=pairs.steps,
        guidance=pairs.guidance,
        guidance_until=pairs.guidance_until,
        guidance_norm=pairs.guidance_norm,
        guidance_2=pairs.guidance_2,
        shard_size=pairs.shard_size,
        shape=teacher.buckets.shapes[0],
        classes=teacher.classes,
        weights=pairs.weights,
        prompts=prompts,
        negative_prompt=negative,
        shapes=shapes,
        shares=shares,
        precision=pairs.precision,
    )
    plan.spans(pairs.count)  # it holds all buckets
    return plan


def _digest(prompts: Sequence[str]) -> str:
    """SHA-256 of prompts with a NUL between two, and after two of them those of images."""
    digest = hashlib.sha256()
    for number, prompt in enumerate(prompts):
        digest.update(b"\0" * (number > 0) + prompt.encode())
        for image in prompts.images(number) if isinstance(prompts, PromptFile) else ():
            digest.update(b"\0\0" + image.name.encode())
    return digest.hexdigest()


def pair_teacher(settings: TeacherConfig, precision: str, device: torch.device) -> Denoiser:
    """The frozen teacher as it makes pairs of a precision, on a device.

    Raises:
        UserError: If it cannot be loaded.
    """
    teacher = load_teacher(settings)
    if precision == "bf16":
        compute_in_half(teacher)
    return teacher.to(device)


class PairMaker:
    """Makes whole shards; what is in them follows from the plan alone.

    Args:
        teacher: Where the teacher is; it is loaded once, at the first shard.
        plan: What defines the pairs.
        store: Where the set is.
        pairs: How they are computed: `attention`, `compile`, and `batch_size` at once; None begins
            with a whole shard and halves that whenever the GPU's memory does not hold it.
    """

    def __init__(
        self, teacher: TeacherConfig, plan: PairPlan, store: Store, pairs: PairsConfig
    ) -> None:
        self.plan, self.batch_size = plan, pairs.batch_size or plan.shard_size
        self._pairs = pairs
        self._config, self._store = teacher, store
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""
        return (
            f"pairs.batch_size: memory does not hold the teacher and {self.batch_size} pairs; "
            "lower it or let null find what it holds, share a GPU among fewer pairs.actors, or "
            "use a larger one"
        )

    @cached_property
    def teacher(self) -> Denoiser:
        """As `pair_teacher`, in the kernels that the settings name.

        Raises:
            UserError: If this machine does not see the set, or has no or another teacher, or
                not those kernels.
        """
        shards.check_shared(self._store, self.plan)
        try:
            found, problem = teacher_fingerprint(self._config), "has another teacher than the job"
        except UserError as error:
            found, problem = "", f"has no teacher: {error}"
        if found != self.plan.teacher:
            raise UserError(
                f"teacher.output: node {socket.gethostname()} {problem} "
                f"({self._config.output}); every node needs the same files there, or give s3://"
            )
        teacher = pair_teacher(self._config, self.plan.precision, self._device)
        use_attention(teacher, self._pairs.attention, "pairs.attention")
        compile_network(teacher, self._pairs.compile)
        return teacher

    def make(self, index: int) -> str:
        """Make one shard and store it, unless it is stored already; returns its name.

        Raises:
            UserError: If the teacher cannot be loaded or the store refuses.
            FloatingPointError: If the teacher makes values that are not finite.
        """
        ids = shards.ids(self.plan, index)
        shape = self.plan.shape_of(int(ids[0]))
        noise = seeds.noise(self.plan.seed, ids, shape, stream=seeds.PAIRS)
        noise = schema.storable(noise)
        labels = shards.labels(self.plan, ids)
        images = self._fit(noise, labels)
        if not images.half().isfinite().all():
            raise FloatingPointError(
                f"the teacher made values that are not finite for ids {ids[0]} to {ids[-1]}: "
                f"check teacher.output, or lower pairs.guidance {self.plan.guidance}"
            )
        prompts = None
        if (texts := self.teacher.prompts) is not None and labels is not None:
            prompts = [texts[label] for label in labels.tolist()]
        batch = PairBatch(ids, labels, noise, images)
        return shards.write(self._store, self.plan, index, batch, prompts)

    def _fit(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        while True:
            try:
                return self._solve(noise, labels)
            except torch.OutOfMemoryError:
                if self._pairs.batch_size or self.batch_size == 1:
                    raise
            torch.cuda.empty_cache()
            self.batch_size //= 2

    def _solve(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        plan, images = self.plan, []
        teacher = self.teacher.at(tuple(noise.shape[1:]))
        for first in range(0, len(noise), self.batch_size):
            rows = slice(first, first + self.batch_size)
            condition = None if labels is None else labels[rows].to(self._device)
            with refusals_named(self._pairs.attention, "pairs.attention"):
                part = sample_teacher(
                    teacher,
                    noise[rows].to(self._device),
                    condition,
                    plan.solver,
                    plan.steps,
                    plan.guided,
                )
            images.append(part.cpu())
        return torch.cat(images)
