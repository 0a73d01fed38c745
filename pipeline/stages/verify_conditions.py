"""Look at a closed set of conditions, and check every byte of it."""

from itertools import islice

from pipeline.config import Config
from pipeline.data import conditions, shards
from pipeline.data.manifest import Shard
from pipeline.data.plans import ConditionPlan
from pipeline.data.storage import Storage
from pipeline.diffusion.condition import Condition
from pipeline.stages.check_shards import check_shards, read_shard
from pipeline.utils.errors import DamagedError

_LINES = 10


def inspect_conditions(config: Config) -> None:
    """Print the manifest of a set as a table, and the shapes of its first conditions.

    Raises:
        UserError: If there is no complete set, or a shard is unusable.
    """
    store = Storage(config.embed.output, config.s3, "embed.output")
    manifest = shards.read_manifest(store, ConditionPlan)
    plan, size = manifest.plan, sum(shard.bytes for shard in manifest.shards)
    print(f"set      {store.uri('')}")
    print(f"rows     {manifest.count} in {len(manifest.shards)} shards, {size:,} bytes")
    print(f"prompts  {plan.count}, away from {plan.negative_prompt!r}, {plan.precision}")
    print(f"made by  {plan.family}, {plan.pipeline}, encoders {plan.encoders[:16]}")
    reader = conditions.ConditionReader(store, manifest)
    ids = list(range(min(manifest.count, _LINES)))
    for id, row in zip(ids, reader.rows(ids), strict=True):
        print(f"{id:8} {_shapes(row)}")
    for shard in islice(manifest.shards, _LINES):
        print(f"{shard.name} {shard.rows:7} {shard.bytes:13,}")
    if len(manifest.shards) > _LINES:
        print(f"... and {len(manifest.shards) - _LINES} more")


def _shapes(row: Condition) -> str:
    counted = row.get("mask")
    told = [f"{name} {'x'.join(map(str, each.shape[1:]))}" for name, each in row.tensors.items()]
    return ", ".join([*told, *([] if counted is None else [f"{int(counted.sum())} counted"])])


def verify_conditions(config: Config) -> None:
    """Read every condition of a set again and check it.

    Checked are each shard's size, plan, checksums and ids, that all conditions have tensors of the
    same names and types, and that values are finite.

    Raises:
        UserError: If there is no complete set, or anything is wrong with it; names the shards.
    """
    store = Storage(config.embed.output, config.s3, "embed.output")
    manifest = shards.read_manifest(store, ConditionPlan)
    plan, first = manifest.plan, tuple[str, ...]()
    stored = store.list(f"{plan.kind.prefix}-")

    def check(shard: Shard) -> None:
        nonlocal first
        content = read_shard(store, plan, shard, stored.get(shard.name), conditions.decode_all)
        rows = content.batch
        if list(rows) != list(range(shard.first, shard.first + shard.rows)):
            raise DamagedError("holds other ids than its name says")
        first = first or _types(rows[shard.first])
        if any(_types(row) != first for row in rows.values()):
            raise DamagedError("has other tensors than the first conditions")
        if not all(each.isfinite().all() for row in rows.values() for each in row.tensors.values()):
            raise DamagedError("holds values that are not finite")

    check_shards(manifest, check, "conditions")
    print(f"verify   {manifest.count} conditions are sound")


def _types(row: Condition) -> tuple[str, ...]:
    return tuple(f"{name} {each.dtype}" for name, each in row.tensors.items())
