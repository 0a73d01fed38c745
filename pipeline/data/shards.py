"""A pair set: its plan, its shards, and the manifest that closes it.

    plan.json                              what defines the content, put before any shard
    pairs-000000000000-000000000500.parquet    ids 0 to 499; the name follows from the plan
    manifest-5000.json                     the shards of a complete set of 5000 pairs

Each is put once. Readers trust the manifest of the largest count and nothing else. A shard's
checksum travels in its own footer; closing a set lists what is stored and reads no shard, so
that the manifest describes what is there, whoever won the race to write it.
"""

import hashlib
import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pipeline.data import schema
from pipeline.data.schema import PairBatch
from pipeline.data.store import Store, record
from pipeline.errors import UserError

PLAN = "plan.json"
_GOLDEN = 0x9E3779B1
"""2^32 over the golden ratio, made odd."""
NOISE = "Philox4x32-10 of (seed, stream 0, sample_id), AS 241 normal quantile, float16"


@dataclass(frozen=True)
class PairPlan:
    """All that defines the content of a pair set (not its count, batch size or machines).

    Attributes:
        teacher: Fingerprint of the teacher.
        seed: Seed of the noise.
        solver: Name of the ODE solver.
        steps: Its number of steps.
        guidance: Guidance scale; 1 means the conditional prediction alone.
        shard_size: Pairs in a shard.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None for an unconditional teacher.
        weights: Relative frequency of each class; None means all alike.
        prompts: SHA-256 of the prompts that the classes are, or None.
        negative_prompt: What guidance leads away from, or None.
        version: Version of the layout.
    """

    teacher: str
    seed: int
    solver: str
    steps: int
    guidance: float
    shard_size: int
    shape: tuple[int, int, int]
    classes: int | None
    weights: tuple[float, ...] | None = None
    prompts: str | None = None
    negative_prompt: str | None = None
    version: int = schema.VERSION

    def fingerprint(self) -> str:
        """Short hash of all fields."""
        return hashlib.sha256(_dump(self)).hexdigest()[:16]


@dataclass(frozen=True)
class Shard:
    """One stored shard: its first id, its rows, and its size in bytes."""

    name: str
    first: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A complete set: its plan, its number of pairs, and its shards by id."""

    plan: PairPlan
    count: int
    shards: tuple[Shard, ...]

    def check_teacher(self, fingerprint: str) -> None:
        """Make sure that the pairs come from this teacher.

        Raises:
            UserError: If another teacher made them.
        """
        if self.plan.teacher != fingerprint:
            raise UserError(
                f"the pairs are of another teacher: {self.plan.teacher}, not {fingerprint}; "
                "set pairs.output to a new folder and run jobs/pairs.py"
            )


def open_plan(store: Store, plan: PairPlan) -> None:
    """Put the plan, or make sure that the one in the store is the same.

    Raises:
        UserError: If the store holds pairs of another plan; names every difference.
    """
    record(store, PLAN, json.loads(_dump(plan)), "pairs.output")


def check_shared(store: Store, plan: PairPlan) -> None:
    """Make sure that this machine sees the set the job has opened, before it works for it.

    Raises:
        UserError: If this plan is not there: another machine has a folder of the same name.
    """
    if PLAN not in store.list(PLAN) or store.get(PLAN) != _dump(plan):
        raise UserError(
            f"pairs.output: node {socket.gethostname()} does not see {store.where(PLAN)}, which "
            "the job has put there; give a folder that all nodes share, or s3://bucket/prefix"
        )


def ids(plan: PairPlan, index: int) -> Tensor:
    """Sample ids of a shard, (shard_size,) int64."""
    return torch.arange(index * plan.shard_size, (index + 1) * plan.shard_size)


def labels(plan: PairPlan, ids: Tensor) -> Tensor | None:
    """Class labels of sample ids, (B,) int64, as often as the plan says; None without classes.

    Equal classes take turns; weighted ones follow a golden-ratio sequence through [0, 1), so that
    any run of ids has them about as often as their weights.

    Source: Knuth, The Art of Computer Programming, volume 3, Section 6.4, Theorem S.
    """
    if plan.classes is None or plan.weights is None:
        return None if plan.classes is None else ids % plan.classes
    ends = torch.tensor(plan.weights, dtype=torch.float64).cumsum(0)
    place = (ids * _GOLDEN % 2**32).double() / 2**32 * ends[-1]
    return torch.searchsorted(ends, place, right=True)


def missing(store: Store, plan: PairPlan, count: int) -> list[int]:
    """Shards of a set of `count` pairs that are not stored yet.

    Raises:
        UserError: If the count is not a whole number of shards.
    """
    stored = store.list("pairs-")
    return [index for index in _indices(plan, count) if _name(plan, index) not in stored]


def write(
    store: Store,
    plan: PairPlan,
    index: int,
    batch: PairBatch,
    prompts: Sequence[str] | None = None,
) -> str:
    """Store one shard, unless it is there already; returns its name.

    Args:
        store: Where the set is.
        plan: Of the set.
        index: Number of the shard.
        batch: Its pairs.
        prompts: The prompt of each pair, or None.

    Raises:
        UserError: If the store refuses.
    """
    assert torch.equal(batch.ids.cpu(), ids(plan, index)), "these are not the shard's ids"
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in asdict(plan).items()
    }
    metadata |= {"noise": NOISE, "plan": plan.fingerprint()}
    name = _name(plan, index)
    store.put(name, schema.encode(batch, metadata, prompts))
    return name


def close(store: Store, plan: PairPlan, count: int) -> Manifest:
    """Put the manifest of a complete set, or return the one that is there.

    Raises:
        UserError: If a shard is missing, or not the one an earlier manifest lists.
    """
    stored, size, shards = store.list("pairs-"), plan.shard_size, []
    for index in _indices(plan, count):
        if (name := _name(plan, index)) not in stored:
            raise UserError(f"{store.where(name)} is missing: run jobs/pairs.py again")
        shards.append(Shard(name, index * size, size, stored[name]))
    manifest = Manifest(plan, count, tuple(shards))
    name = f"manifest-{count}.json"
    if not store.put(name, _dump(manifest)) and _load_manifest(store, name) != manifest:
        raise UserError(
            f"{store.where(name)} lists other shards than those stored; "
            "delete this manifest and run jobs/pairs.py again"
        )
    return manifest


def read_manifest(store: Store) -> Manifest:
    """The manifest of the largest count.

    Raises:
        UserError: If there is none, it is damaged or it lists no pairs.
    """
    counts = [name[len("manifest-") : -len(".json")] for name in store.list("manifest-")]
    largest = max((int(count) for count in counts if count.isdigit()), default=None)
    if largest is None:
        raise UserError(f"no complete pair set in {store.where('')}: run jobs/pairs.py first")
    manifest = _load_manifest(store, f"manifest-{largest}.json")
    if manifest.count < 1:
        raise UserError(f"the pair set in {store.where('')} is empty: run jobs/pairs.py first")
    return manifest


def check_stored(store: Store, manifest: Manifest) -> None:
    """See from a listing that all shards are the manifest's, before work is spent on them.

    Raises:
        UserError: If a shard is missing or of another size.
    """
    stored = store.list("pairs-")
    for shard in manifest.shards:
        if shard.name not in stored:
            raise UserError(f"{store.where(shard.name)} is missing: run jobs/pairs.py again")
        if stored[shard.name] != shard.bytes:
            raise UserError(
                f"{store.where(shard.name)} is not the shard its manifest lists; "
                "delete it and run jobs/pairs.py again"
            )


def _indices(plan: PairPlan, count: int) -> range:
    whole, rest = divmod(count, plan.shard_size)
    if rest or whole < 1:
        below, above = max(whole, 1) * plan.shard_size, (whole + 1) * plan.shard_size
        nearest = f"{below} or {above}" if whole else f"{above}"
        raise UserError(
            f"pairs.count {count} is not a whole number of shards of "
            f"pairs.shard_size {plan.shard_size}: use {nearest}"
        )
    return range(whole)


def _name(plan: PairPlan, index: int) -> str:
    first = index * plan.shard_size
    return f"pairs-{first:012d}-{first + plan.shard_size:012d}.parquet"


def _dump(value: PairPlan | Manifest) -> bytes:
    return (json.dumps(asdict(value), indent=1) + "\n").encode()


def _load(store: Store, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(store.get(name)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{store.where(name)} is damaged ({error}); delete it") from error


def _load_plan(values: dict[str, Any], where: str) -> PairPlan:
    names = {field.name for field in fields(PairPlan)}
    if set(values) != names or values["version"] != schema.VERSION:
        raise UserError(f"{where} was written by another version; make the pairs again elsewhere")
    weights = None if values["weights"] is None else tuple(values["weights"])
    return PairPlan(**{**values, "shape": tuple(values["shape"]), "weights": weights})


def _load_manifest(store: Store, name: str) -> Manifest:
    values = _load(store, name)
    try:
        plan = _load_plan(values["plan"], store.where(name))
        return Manifest(plan, values["count"], tuple(Shard(**each) for each in values["shards"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{store.where(name)} is damaged ({error!r}); delete it") from error
