"""The pairs that a run reads: those it began with, also when the set has grown since."""

import json

from pipeline.config import Config
from pipeline.data.plans import PairPlan
from pipeline.data.reader import PairReader
from pipeline.data.shards import Manifest, read_manifest
from pipeline.data.storage import Storage
from pipeline.runs.run_folder import RUN


def pair_manifest(config: Config) -> Manifest[PairPlan]:
    """The pairs that a run reads: those it began with, however many have been added since.

    `run.json` says which; a run that has not begun takes the largest set there is.

    Raises:
        UserError: If there is no complete set, or no longer the one the run began with.
    """
    store = _pairs(config)
    largest = read_manifest(store)
    match _begun_with(config):
        case {"plan": plan, "count": int(count)} if plan == largest.plan.fingerprint():
            return read_manifest(store, ids=count)
    return largest


def pair_reader(config: Config, seed: int, batch_size: int) -> PairReader:
    """Batches of the pairs that a run reads; raises as `pair_manifest`."""
    return PairReader(_pairs(config), seed, batch_size, manifest=pair_manifest(config))


def added_pairs(config: Config) -> int:
    """How many pairs are there now beside those that a run reads; raises as `pair_manifest`."""
    return read_manifest(_pairs(config)).count - pair_manifest(config).count


def _pairs(config: Config) -> Storage:
    return Storage(config.pairs.output, config.s3, "pairs.output")


def _begun_with(config: Config) -> object:
    """What `run.json` says of the pairs; a damaged one says nothing, and is told at the claim."""
    run = Storage(config.distill.output, config.s3, "distill.output")
    try:
        found = json.loads(run.get(RUN)) if RUN in run.list(RUN) else None
    except ValueError:
        return None
    return found.get("pairs") if isinstance(found, dict) else None
