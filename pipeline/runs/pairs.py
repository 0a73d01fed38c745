"""The pairs that a run reads: those it began with, also when the set has grown since."""

from functools import cached_property

from pydantic_core import from_json

from pipeline.config import S3Config
from pipeline.data.manifest import Manifest
from pipeline.data.plans import PairPlan
from pipeline.data.reader import PairReader
from pipeline.data.shards import read_manifest
from pipeline.data.storage import Storage
from pipeline.diffusion.buckets import Shape
from pipeline.runs.run_folder import RUN


class RunPairs:
    """The pair set of a run.

    Args:
        pairs: URI of the set, `pairs.output`.
        run: URI of the run, `distill.output`.
        credentials: What reaches a bucket.
    """

    def __init__(self, pairs: str, run: str, credentials: S3Config) -> None:
        self.storage = Storage(pairs, credentials, "pairs.output")
        self._run = Storage(run, credentials, "distill.output")

    @cached_property
    def manifest(self) -> Manifest[PairPlan]:
        """What the run began with, says `run.json`; before it begins, the largest set there is.

        Raises:
            UserError: If there is no complete set, or no longer the one the run began with.
        """
        match self._begun_with():
            case {"plan": plan, "count": int(count)} if plan == self._largest.plan.fingerprint():
                return read_manifest(self.storage, ids=count)
        return self._largest

    def hints(self) -> list[str]:
        """What the user may not expect, a line each; raises as `manifest`."""
        if not (added := self._largest.count - self.manifest.count):
            return []
        return [
            f"it reads the {self.manifest.count} pairs it began with, not the {added} made since; "
            "a new run reads all: choose another distill.output, and distill.start_from to begin "
            "from this one"
        ]

    def reader(self, seed: int, batch_size: int, shape: Shape) -> PairReader:
        """Batches of the pairs of one shape in `manifest`; raises as it, and if there are none."""
        return PairReader(self.storage, seed, batch_size, manifest=self.manifest.of(shape))

    @cached_property
    def _largest(self) -> Manifest[PairPlan]:
        return read_manifest(self.storage)

    def _begun_with(self) -> object:
        """What `run.json` says of the pairs; a damaged one says nothing, and the claim tells it."""
        try:
            found = from_json(self._run.get(RUN)) if RUN in self._run.list(RUN) else None
        except ValueError:
            return None
        return found.get("pairs") if isinstance(found, dict) else None
