"""Two networks as one: each row of a batch goes through the one for its level of noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from pipeline.diffusion.condition import Inputs
from pipeline.models.family import refuse
from pipeline.models.folder import ModelFolder
from pipeline.models.latent_transformer import LatentTransformer
from pipeline.models.student_scheduler import student_scheduler

_RATIO = "boundary_ratio"


class Experts(nn.Module):
    """Two transformers of one shape, called as one of them.

    Source: eDiff-I (Balaji et al., 2022), arXiv 2211.01324, Section 4; Wan 2.2.

    Args:
        transformer: Of the noisier times.
        transformer_2: Of the others.
        boundary: The first time of the noisier ones, as the networks are told it.
    """

    def __init__(self, transformer: nn.Module, transformer_2: nn.Module, boundary: float) -> None:
        super().__init__()
        self.transformer, self.transformer_2 = transformer, transformer_2
        self.boundary = boundary

    @property
    def config(self) -> Any:
        """Of either."""
        return self.transformer.config

    def forward(
        self, *, timestep: Tensor, return_dict: bool = False, **given: Tensor
    ) -> tuple[Tensor]:
        """What the experts give, (B, ...), of what one of them takes, each (B, ...)."""
        shares, found = self.shares(timestep), []
        for expert, rows in shares:
            some = rows if len(rows) else slice(1)
            own = {name: value[some] for name, value in given.items()}
            found += expert(timestep=timestep[some], **own, return_dict=return_dict)
        return (joined(found, [rows for _, rows in shares]),)

    def shares(self, timestep: Tensor) -> list[tuple[nn.Module, Tensor]]:
        """Who is called at times (B,), each with the numbers of its rows.

        Workers that share the weights (FSDP) must all ask for the same ones: an expert that has
        rows on another is called here too, with a row that does not count if there is none.
        """
        if timestep.is_meta:  # without data; both take as much memory
            return [(self.transformer, torch.arange(len(timestep), device="meta"))]
        noisier = timestep >= self.boundary
        sides = ((self.transformer, noisier), (self.transformer_2, ~noisier))
        asked = torch.stack([noisier.any(), (~noisier).any()]).int()
        if any(isinstance(each, FSDPModule) for each in self.modules()):
            dist.all_reduce(asked, dist.ReduceOp.MAX)
        return [
            (expert, side.nonzero().flatten())
            for (expert, side), here in zip(sides, asked.tolist(), strict=True)
            if here
        ]


def joined(parts: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Rows that were apart, in their order, (B, ...), without those that do not count."""
    counted = [part[: len(own)] for part, own in zip(parts, rows, strict=True)]
    return torch.cat(counted)[torch.cat(list(rows)).argsort()]


class TwoExperts(LatentTransformer):
    """What families of two experts share: a pipeline with `transformer` and `transformer_2`."""

    part = "experts"
    unused = frozenset()
    backbone: Experts

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        return super().reads(folder) and folder.index.get(_RATIO) is not None

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        if not isinstance(ratio := folder.index[_RATIO], int | float):
            return f"its {_RATIO} is {ratio!r}, which is no number"
        return super().problem(folder)

    @classmethod
    def required(cls, folder: ModelFolder) -> set[str]:
        return {*super().required(folder), "transformer_2"}

    @classmethod
    def backbone_parts(cls) -> tuple[str, ...]:
        return "transformer", "transformer_2"

    @classmethod
    def take_backbone(
        cls, folder: ModelFolder, parts: dict[str, Any], flags: Mapping[str, Any]
    ) -> Any:
        first, second = parts.pop("transformer"), parts.pop("transformer_2")
        for name, value in first.config.items():
            if not name.startswith("_") and second.config.get(name) != value:
                other = f"{name} {second.config.get(name)}, not {value} as its transformer"
                refuse(folder, f"its transformer_2 has {other}: copy both from one model")
        table = parts["scheduler"].config.num_train_timesteps
        return Experts(first, second, flags[_RATIO] * table)

    def second_guided(self, t: Tensor) -> Tensor:
        return self.position(t) < self.backbone.boundary

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {f"{self.part}.{name}": each for name, each in self.backbone.named_children()}

    def asked(self, times: Sequence[float]) -> list[str]:
        noisier, other = self.networks
        told = self.position(torch.tensor(times, dtype=torch.float64))
        return [noisier if each >= self.backbone.boundary else other for each in told]

    def of_stages(self, found: Sequence[Any], inputs: Inputs) -> list[Tensor]:
        """One expert gives all of its stages before the next."""
        rows = [own for _, own in self.backbone.shares(self.position(inputs.t))]
        each = len(found) // len(rows)
        apart = [
            super(TwoExperts, self).of_stages(found[i * each :][:each], inputs.rows(own))
            for i, own in enumerate(rows)
        ]
        return [joined(parts, rows) for parts in zip(*apart, strict=True)]

    @property
    def call_settings(self) -> dict[str, Any] | None:
        """None, too, where the scheduler's rounding takes a time to the other expert."""
        settings, times = super().call_settings, self.sampler.timesteps
        scheduler = student_scheduler(self.scheduler, self.sampler, self._takes("sigmas"))
        scheduler.set_timesteps(len(times))
        told = self.position(torch.tensor(times, dtype=torch.float64))
        sides = [each >= self.backbone.boundary for each in (told, scheduler.timesteps)]
        return settings if torch.equal(*sides) else None
