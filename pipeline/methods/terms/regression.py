"""The regression term: ties the student to the teacher's images of the same noise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pipeline.config.terms import RegressionConfig
from pipeline.diffusion.losses import huber_loss, regression_loss
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.terms.term import Held, Needs, Term
from pipeline.utils.fields import Branch

Distance = Callable[[Tensor, PairBatch], Tensor]
"""Of the student's x0, (B, C, H, W), to the pairs of the same noise; its mean, ()."""


def l2(x0: Tensor, pairs: PairBatch) -> Tensor:
    """Mean square; see `regression_loss`."""
    return regression_loss(x0, pairs.images)


def huber(x0: Tensor, pairs: PairBatch) -> Tensor:
    """Pseudo-Huber; see `huber_loss`."""
    return huber_loss(x0, pairs.images)


DISTANCES: dict[str, Distance] = {"l2": l2, "huber": huber}
"""Those that are no network; LPIPS is in `models.perceptual.distance`."""


@dataclass(frozen=True)
class Regression(Term[RegressionConfig]):
    """Distance of the student's images to the pairs', the only loss of the first phase.

    Args:
        distance: What `distance` in the settings names.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Eq. 9.
    """

    Settings: ClassVar[type[Branch]] = RegressionConfig
    on_pairs: ClassVar[bool] = True

    distance: Distance = l2

    @property
    def weight(self) -> float:
        """In the third phase."""
        return self.settings.weight

    @property
    def weight_alone(self) -> float:
        """In the first phase."""
        return 1.0

    def needs(self) -> Needs:
        """Pairs, unless it has no part in any step."""
        return Needs(pairs=self.distill.regression_steps > 0 or self.weight > 0)

    def pair_loss(self, images: Tensor, pairs: PairBatch) -> Tensor:
        """The distance of images (B, C, H, W)."""
        return self.distance(images, pairs)

    def held(self, shape: tuple[int, ...], rows: int) -> Held | None:
        """What a perceptual distance holds."""
        held = getattr(self.distance, "held", None)
        return held(shape, rows) if held else None
