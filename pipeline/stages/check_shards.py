"""Read all shards of a closed set again, and say which are bad."""

from collections.abc import Callable
from typing import Any

from pipeline.data.manifest import Manifest, Shard
from pipeline.data.plans import Plan
from pipeline.data.schema import Batch, Content
from pipeline.data.storage import Store
from pipeline.data.twice import twice
from pipeline.utils.errors import DamagedError, UserError
from pipeline.utils.progress import Progress

_NAMED = 20
"""Bad shards that are named."""


def check_shards(manifest: Manifest[Any], check: Callable[[Shard], None], unit: str) -> None:
    """Go through all shards.

    Args:
        manifest: Of the set.
        check: Reads a shard, and raises DamagedError if anything is wrong with it.
        unit: What a row is, in the plural.

    Raises:
        UserError: If anything is wrong with one; names the shards.
    """
    job, faults = manifest.plan.kind.job, dict[str, str]()
    with Progress(manifest.count, "verify", unit) as bar:
        for shard in manifest.shards:
            try:
                check(shard)
            except DamagedError as error:
                faults[shard.name] = str(error).removesuffix(f"; delete it and run {job} again")
            bar.update(shard.rows)
    if faults:
        name, fault = next(iter(faults.items()))
        raise UserError(
            f"{len(faults)} of {len(manifest.shards)} shards are bad, the first of them {name}: "
            f"{fault}; delete {', '.join(list(faults)[:_NAMED])}{' ...' * (len(faults) > _NAMED)} "
            f"and run {job} again"
        )


@twice
def read_shard(
    store: Store,
    plan: Plan,
    shard: Shard,
    size: int | None,
    decode_all: Callable[[Any, str], Content[Batch]],
) -> Content[Batch]:
    """A whole shard, whose size, plan and checksum are right.

    Args:
        store, plan, shard: Where it is, and which.
        size: Its bytes in the store; None if it is not there.
        decode_all: Reads an open file, which it calls by a name in its errors.

    Raises:
        DamagedError: If anything is wrong.
    """
    if size != shard.bytes:
        raise DamagedError("is missing" if size is None else f"{size} bytes, not {shard.bytes}")
    with store.open(shard.name) as file:
        content = decode_all(file, store.uri(shard.name))
    if content.metadata.get("plan") != plan.fingerprint():
        raise DamagedError("is of another plan")
    return content
