"""The evaluate job: batches of images -> a pool of actors -> their features, streamed back."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.cluster import pool
from pipeline.cluster.pool import TRIES, Work
from pipeline.config import Config
from pipeline.data.fetch import INPUTS, fetch_inputs
from pipeline.evaluation.image_reader import Batch, ImageReader, Task, tasks
from pipeline.evaluation.readouts import packed, unpacked
from pipeline.evaluation.reference import Reference
from pipeline.stages.evaluate import Evaluation, evaluate, open_reader
from pipeline.utils.errors import UserError


def evaluate_student(config: Config) -> Evaluation:
    """Evaluate the configured student, with `evaluate.actors` where there are any.

    Raises:
        UserError: As `evaluate`; if an actor cannot load what this process has, or no batch comes
            for `evaluate.patience` seconds.
    """
    if not config.evaluate.actors.max:
        return evaluate(config)

    def by_actors(reader: ImageReader, batches: Sequence[Task]) -> Iterator[Batch]:
        """In a pool of actors, which take the classifier and reference images of this process."""
        real, classifier = reader.sets.real, reader.classifier
        reference = real if isinstance(real, Reference) else None
        weights = reader.weights

        def new_actor() -> ReadingActor:  # on its node, with networks of its own
            own = open_reader(fetch_inputs(config, *INPUTS), reference, classifier)
            return ReadingActor(own, config.evaluate.batch_size, weights)

        work = Work("evaluate", "images", config.evaluate, new_actor, "batch_size")
        every = tasks(reader.sets, config.evaluate.batch_size)
        for row in pool.outcomes([every.index(each) for each in batches], work):
            if row["failed"]:
                raise UserError(f"a batch failed {TRIES} times: {row['failed']}")
            yield unpacked(every[row["index"]], row["made"])

    return evaluate(config, by_actors)


class ReadingActor:
    """What an actor does: number of a task -> what is read of its images.

    Args:
        reader: Of this node.
        batch_size: Images made at once.
        weights: As `ImageReader.weights` has them of the job itself.

    Raises:
        UserError: If this node has other weights.
    """

    def __init__(
        self, reader: ImageReader, batch_size: int, weights: Mapping[str, str | None]
    ) -> None:
        self._reader = reader
        for setting, checksum in reader.weights.items():
            if checksum != weights[setting]:
                raise UserError(
                    f"{setting}: this node has other weights than the job; every node needs the "
                    "same"
                )
        self._batch_size = batch_size
        self._tasks = tasks(reader.sets, self._batch_size)

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""
        return (
            "evaluate.batch_size: memory does not hold the networks and a batch of "
            f"{self._batch_size} images; lower it"
        )

    def make(self, index: int) -> bytes:
        """What is read of a task's images, packed; raises as `ImageReader.read`."""
        return packed(self._reader.read(self._tasks[index]))
