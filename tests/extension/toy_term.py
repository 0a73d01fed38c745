"""A term from outside: the samples' mean is pulled to zero."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.methods.samples import SamplesSeen
from pipeline.methods.terms import TERMS
from pipeline.methods.terms.term import Term
from pipeline.utils.fields import Branch, Weight


class ZeroMeanConfig(Branch):
    weight: Weight = 0.1


@dataclass(frozen=True)
class ZeroMean(Term[ZeroMeanConfig]):
    Settings = ZeroMeanConfig

    @property
    def weight(self) -> float:
        return self.settings.weight

    def sample_loss(self, seen: SamplesSeen) -> tuple[Tensor, dict[str, Tensor]]:
        loss = seen.x0.mean((1, 2, 3)).square().mean()
        return loss, {"zero_mean": loss.detach()}


TERMS["zero_mean"] = ZeroMean
