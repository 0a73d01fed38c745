"""Embed prompts: their numbers -> the text encoders -> a stored shard of conditions."""

import socket
from functools import cached_property

import torch

from pipeline.config import TeacherConfig
from pipeline.data import conditions, shards
from pipeline.data.plans import ConditionPlan
from pipeline.data.storage import Store
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import Prompts
from pipeline.models.encoders import condition_plan, load_prompts, reads_padding
from pipeline.utils.errors import UserError


class ConditionMaker:
    """Makes whole shards; what is in them follows from the plan alone.

    Args:
        teacher: Whose encoders are loaded once, at the first shard.
        plan: What defines the set.
        store: Where the set is.
    """

    def __init__(self, teacher: TeacherConfig, plan: ConditionPlan, store: Store) -> None:
        self.plan, self._teacher, self._store = plan, teacher, store
        self._spans = plan.spans(plan.rows)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def too_large(self) -> str:
        """What the user can do where memory does not hold the work."""
        return (
            "embed.actors: memory does not hold the text encoders and one prompt; share a GPU "
            "among fewer embed.actors, or use a larger one"
        )

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts, with the encoders.

        Raises:
            UserError: If this machine does not see the set, or has other encoders or prompts.
        """
        shards.check_shared(self._store, self.plan)
        plan = self.plan
        if condition_plan(self._teacher, plan.precision, plan.shard_size) != plan:
            raise UserError(
                f"teacher.output: node {socket.gethostname()} has other text encoders or prompts "
                f"than the job ({self._teacher.output}, {self._teacher.prompts}); every node needs "
                "the same files there, or give s3://"
            )
        return load_prompts(self._teacher)

    @cached_property
    def _whole(self) -> bool:
        return reads_padding(self._teacher)

    def make(self, index: int) -> str:
        """Make one shard and store it, unless it is stored already; returns its name.

        Raises:
            UserError: If the encoders cannot be loaded or the store refuses.
            FloatingPointError: If they make values that are not finite in the set's precision.
        """
        ids = self._spans[index]
        rows = [self._condition(id) for id in ids]
        return conditions.write(self._store, self.plan, ids, rows, self._whole)

    def _condition(self, id: int) -> Condition:
        number = -1 if id == self.plan.count else id
        return self.prompts.row(number, self._device).to("cpu")
