"""What a complete set is: its plan, and its shards."""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.data import schema
from pipeline.data.plans import BucketPlan, PairPlan, Plan
from pipeline.diffusion.buckets import Buckets, Shape
from pipeline.utils.errors import UserError

_Plan = TypeVar("_Plan", bound=Plan)
_BucketPlan = TypeVar("_BucketPlan", bound=BucketPlan)


@dataclass(frozen=True)
class Shard:
    """One stored shard: its first id, its rows, and its size in bytes."""

    name: str
    first: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest(Generic[_Plan]):
    """A complete set: its plan, its number of rows, and its shards by id."""

    plan: _Plan
    count: int
    shards: tuple[Shard, ...]

    def of(self: "Manifest[_BucketPlan]", shape: Shape) -> "Manifest[_BucketPlan]":
        """The rows of one shape, all in their own shards.

        Raises:
            UserError: If there are none.
        """
        plan, kind = self.plan, self.plan.kind
        shards = tuple(each for each in self.shards if plan.shape_of(each.first) == shape)
        if not (count := sum(each.rows for each in shards)):
            raise UserError(
                f"{kind.setting}: the set's shards are of {plan.buckets}, and no row is of "
                f"{Buckets.one(shape)}, which the teacher makes; set it to a new folder and run "
                f"{kind.job}"
            )
        return replace(self, count=count, shards=shards)

    def check_teacher(self: "Manifest[PairPlan]", fingerprint: str) -> None:
        """Make sure that the pairs come from this teacher.

        Raises:
            UserError: If another teacher made them.
        """
        if self.plan.teacher != fingerprint:
            raise UserError(
                f"the pairs are of another teacher: {self.plan.teacher}, not {fingerprint}; "
                "set pairs.output to a new folder and run jobs/pairs.py"
            )

    def fault(self, ids: int) -> str:
        """What cannot be so in the manifest of a set of so many ids; "" if all can."""
        plan, shards = self.plan, self.shards
        numbers = [self.count, *(n for each in shards for n in (each.first, each.rows, each.bytes))]
        if any(type(number) is not int for number in numbers):
            return "it has numbers that are no integers"
        try:
            spans = plan.spans(ids)
        except UserError as error:
            return str(error)
        if [(each.name, each.first) for each in shards] != [(plan.name(s), s.start) for s in spans]:
            return f"it lists other shards than a set of {ids} has"
        for shard, span in zip(shards, spans, strict=True):
            least = len(span) if plan.kind is schema.PAIRS else 0
            if not least <= shard.rows <= len(span):
                return f"it gives {shard.name} {shard.rows} rows"
        rows = sum(shard.rows for shard in shards)
        return "" if rows == self.count else f"its count is {self.count}, its shards have {rows}"
