"""A set of pairs or of real images: its plan, its shards, and the manifest that closes it.

    plan.json                              what defines the content, put before any shard
    pairs-000000000000-000000000500.parquet    ids 0 to 499; the name follows from the plan
    manifest-5000.json                     the shards of a complete set of 5000 pairs

Shards of real images begin with real- (see `real`). Each file is put once. Readers trust the
manifest of the largest count and nothing else. A shard's checksums travel in its own footer;
closing a set lists what is stored, so that the manifest describes what is there, whoever won the
race to write it. It reads no shard but those that an earlier manifest lists otherwise.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, TypeVar, overload

import torch
from pydantic_core import from_json
from torch import Tensor

from pipeline.data import schema
from pipeline.data.manifest import Manifest, Shard
from pipeline.data.plans import PairPlan, Plan
from pipeline.data.schema import Kind
from pipeline.data.storage import Store, ensure_json
from pipeline.data.twice import twice
from pipeline.diffusion.pairs import PairBatch
from pipeline.utils.errors import DamagedError, UserError

PLAN = "plan.json"
_Plan = TypeVar("_Plan", bound=Plan)
_GOLDEN = 0x9E3779B1
"""2^32 over the golden ratio, made odd."""
NOISE = "Philox4x32-10 of (seed, stream 0, sample_id), AS 241 normal quantile, float16"


@twice
def open_plan(store: Store, plan: Plan) -> None:
    """Put the plan, or make sure that the one in the store is the same.

    Raises:
        UserError: If the store holds a set of another plan; names every difference.
    """
    ensure_json(store, PLAN, json.loads(_dump(plan)), plan.kind.setting, plan.way_out)


def check_shared(store: Store, plan: Plan) -> None:
    """Make sure that this machine sees the set the job has opened, before it works for it.

    Raises:
        UserError: If this plan is not there: another machine has a folder of the same name.
    """
    if PLAN not in store.list(PLAN) or store.get(PLAN) != _dump(plan):
        raise UserError(
            f"{plan.kind.setting}: node {socket.gethostname()} does not see {store.uri(PLAN)}, "
            "which the job has put there; give a folder that all nodes share, or "
            "s3://bucket/prefix"
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


def missing(store: Store, plan: Plan, count: int) -> list[int]:
    """Shards of a set of `count` rows that are not stored yet.

    Raises:
        UserError: If there can be no set of so many.
    """
    stored = _stored(store, plan.kind)
    return [i for i, span in enumerate(plan.spans(count)) if plan.name(span) not in stored]


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
    first = index * plan.shard_size
    span = range(first, first + plan.shard_size)
    return put(store, plan, span, schema.encode(batch, plan.footer(noise=NOISE), prompts))


def put(store: Store, plan: Plan, ids: range, shard: bytes) -> str:
    """Put the shard of these ids, unless it is there already; returns its name."""
    name = plan.name(ids)
    store.put(name, shard)
    return name


def close(
    store: Store,
    plan: _Plan,
    count: int,
    lacking: Mapping[int, int] = MappingProxyType({}),
) -> Manifest[_Plan]:
    """Put the manifest of a complete set, or return the one that is there.

    Shards that were made again may have another size than the manifest there says: they are read
    whole, and it is put anew.

    Args:
        store: Where the set is.
        plan: Of the set.
        count: Its number of sample ids.
        lacking: First id of a shard -> how many of its ids have no row.

    Raises:
        UserError: If a shard is missing, or damaged since an earlier manifest listed it.
    """
    stored, shards = _stored(store, plan.kind), []
    for ids in plan.spans(count):
        if (name := plan.name(ids)) not in stored:
            raise UserError(f"{store.uri(name)} is missing: run {plan.kind.job} again")
        rows = len(ids) - lacking.get(ids.start, 0)
        shards.append(Shard(name, ids.start, rows, stored[name]))
    manifest = Manifest(plan, sum(shard.rows for shard in shards), tuple(shards))
    name = f"manifest-{count}.json"
    if store.put(name, _dump(manifest)):
        return manifest
    if (before := _load_manifest(store, name, type(plan))) != manifest:
        known = {each.name: each for each in before.shards}
        for shard, ids in zip(shards, plan.spans(count), strict=True):
            if known.get(shard.name) != shard or before.plan != plan:
                _check(store, plan, shard, ids, known.get(shard.name, shard).bytes)
        store.delete(name)
        store.put(name, _dump(manifest))
    return manifest


@twice
def _check(store: Store, plan: Plan, shard: Shard, ids: range, expected: int) -> None:
    """Read a whole shard; raises DamagedError if it is not sound."""
    where = f"{store.uri(shard.name)} ({shard.bytes} bytes, {expected} expected)"
    with store.open(shard.name) as file:
        schema.check(file, plan.fingerprint(), ids, shard.rows, where, plan.kind)


def finished(store: Store, plan: _Plan, count: int) -> Manifest[_Plan] | None:
    """The manifest of a set that has all its shards already, or None; writes nothing.

    Raises:
        UserError: If the manifest is damaged.
    """
    name = f"manifest-{count}.json"
    if name not in store.list(name):
        return None
    manifest, stored = _load_manifest(store, name, type(plan)), _stored(store, plan.kind)
    whole = all(stored.get(shard.name) == shard.bytes for shard in manifest.shards)
    return manifest if whole and manifest.plan == plan else None


@overload
def read_manifest(store: Store, *, ids: int | None = None) -> Manifest[PairPlan]: ...
@overload
def read_manifest(store: Store, plan: type[_Plan]) -> Manifest[_Plan]: ...
def read_manifest(
    store: Store, plan: type[Plan] = PairPlan, ids: int | None = None
) -> Manifest[Any]:
    """The manifest of a set of so many sample ids; of the largest set, unless it is said.

    Raises:
        UserError: If there is none, it is damaged or it lists no rows.
    """
    title, job = plan.kind.title, plan.kind.job
    counts = [name[len("manifest-") : -len(".json")] for name in store.list("manifest-")]
    stored = {int(count) for count in counts if count.isdecimal()}
    if not stored:
        raise UserError(f"no complete {title} set in {store.uri('')}: run {job} first")
    name = f"manifest-{max(stored) if ids is None else ids}.json"
    if ids is not None and ids not in stored:
        raise UserError(
            f"{store.uri(name)} is gone: run {job} with {plan.kind.title}s.count {ids}; shards "
            "that are stored are not made again"
        )
    manifest = _load_manifest(store, name, plan)
    if manifest.count < 1:
        raise UserError(f"the {title} set in {store.uri('')} is empty: run {job} first")
    return manifest


def check_stored(store: Store, manifest: Manifest[_Plan]) -> None:
    """See from a listing that all shards are the manifest's, before work is spent on them.

    Raises:
        UserError: If a shard is missing or of another size.
    """
    kind = manifest.plan.kind
    stored = _stored(store, kind)
    for shard in manifest.shards:
        if shard.name not in stored:
            raise UserError(f"{store.uri(shard.name)} is missing: run {kind.job} again")
        schema.check_size(stored[shard.name], shard.bytes, store.uri(shard.name), kind)


def _stored(store: Store, kind: Kind) -> dict[str, int]:
    return store.list(f"{kind.prefix}-")


def _dump(value: Plan | Manifest[Any]) -> bytes:
    if isinstance(value, Plan):
        values = value.values()
    else:
        values = {**asdict(value), "plan": value.plan.values()}
    return (json.dumps(values, indent=1) + "\n").encode()


def _load_plan(values: dict[str, Any], where: str, plan: Any) -> Any:
    now = {field.name: field.default for field in fields(plan)}
    values = {**{name: now[name] for name in plan.later}, **values}
    if values["version"] != now["version"]:
        raise UserError(
            f"{where} was written by another version; run {plan.kind.job} again elsewhere"
        )
    if unknown := set(values) ^ set(now):
        raise ValueError(f"its plan lacks or should lack {', '.join(sorted(unknown))}")
    return plan(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@twice
def _load_manifest(store: Store, name: str, plan: type[_Plan]) -> Manifest[_Plan]:
    where = store.uri(name)
    try:
        values = from_json(store.get(name))
        shards = tuple(Shard(**each) for each in values["shards"])
        manifest = Manifest(_load_plan(values["plan"], where, plan), values["count"], shards)
        fault = manifest.fault(int(name[len("manifest-") : -len(".json")]))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        fault = repr(error)
    if fault:
        raise DamagedError(f"{where} is damaged ({fault}); delete it and run {plan.kind.job} again")
    return manifest
