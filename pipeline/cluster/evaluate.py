"""The evaluate job: batches of images -> a pool of actors -> their features, streamed back."""

import io
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from pipeline.cluster import pool
from pipeline.cluster.pool import TRIES, Work
from pipeline.config import Config
from pipeline.data.fetch import INPUTS, fetch_inputs
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.comparison import Batch, Maker, Task, tasks
from pipeline.evaluation.reference import Reference
from pipeline.evaluation.statistics import Rows
from pipeline.stages.evaluate import Evaluation, evaluate, open_maker
from pipeline.utils.errors import UserError


def evaluate_student(config: Config) -> Evaluation:
    """Evaluate the configured student, with `evaluate.actors` where there are any.

    Raises:
        UserError: As `evaluate`; if an actor cannot load what this process has, or no batch comes
            for `evaluate.patience` seconds.
    """
    if not config.evaluate.actors.max:
        return evaluate(config)
    return evaluate(config, partial(by_actors, config))


def by_actors(config: Config, maker: Maker, batches: Sequence[Task]) -> Iterator[Batch]:
    """Have the images of all tasks made and read by a pool of actors.

    Args:
        config: With folders as the user gave them: each actor fetches its inputs itself.
        maker: Of this process; actors take its classifier and its reference images, and must load
            the same networks.
        batches: What `tasks` of it are.
    """
    reference = maker.real if isinstance(maker.real, Reference) else None
    features = maker.net.checksum if maker.net else None
    work = Work(
        "evaluate",
        "images",
        config.evaluate,
        partial(Reading, config, reference, maker.classifier, features),
        "batch_size",
    )
    for row in pool.outcomes(list(range(len(batches))), work):
        if row["failed"]:
            raise UserError(f"a batch failed {TRIES} times: {row['failed']}")
        yield _unpacked(batches[row["index"]], row["made"])


class Reading:
    """An actor's maker: numbers of tasks -> what is read of their images.

    Args:
        config: Of the run.
        reference: Real images that the job opened, or None.
        classifier: Trained on real images, or None.
        features: Checksum of the network whose features are compared, or None.

    Raises:
        UserError: If this node cannot load a network, or has other features.
    """

    def __init__(
        self,
        config: Config,
        reference: Reference | None,
        classifier: Classifier | None,
        features: str | None,
    ) -> None:
        self._maker = open_maker(fetch_inputs(config, *INPUTS), reference, classifier)
        found = self._maker.net.checksum if self._maker.net else None
        if found != features:
            raise UserError(
                f"evaluate.weights: this node has other weights of {config.evaluate.features} than "
                "the job; every node needs the same"
            )
        self._tasks = tasks(self._maker)

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""
        return (
            "evaluate.batch_size: memory does not hold the networks and a batch of "
            f"{self._maker.config.evaluate.batch_size} images; lower it"
        )

    def make(self, index: int) -> bytes:
        """What is read of a task's images, packed; raises as `Maker.read`."""
        batch = self._maker.read(self._tasks[index])
        file = io.BytesIO()
        arrays = {name: value.numpy() for name, value in batch.rows._asdict().items()}
        np.savez(file, peak=np.array(batch.peak), **arrays)
        return file.getvalue()


def _unpacked(task: Task, packed: bytes) -> Batch:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        rows = Rows(*(torch.from_numpy(arrays[name]) for name in Rows._fields))
        return Batch(task, rows, int(arrays["peak"]))
