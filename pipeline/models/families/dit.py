"""DiT: a class-conditional transformer on latents."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import VP
from pipeline.diffusion.prediction import PREDICTIONS
from pipeline.models.condition import ClassLabels
from pipeline.models.family import register_family
from pipeline.models.latent_transformer import LatentTransformer


@register_family
class DiT(LatentTransformer):
    """A `DiTTransformer2DModel`; its labels are classes, none is its null class.

    Source: Peebles and Xie, 2022, arXiv 2212.09748.
    """

    family = "dit"
    pipelines = ("DiTPipeline",)
    takes = {VP: PREDICTIONS}

    def __init__(self, backbone: Any, *rest: Any) -> None:
        super().__init__(backbone, *rest)
        classes = self.classes_of(backbone)
        self.conditioner = ClassLabels(classes, null_label=classes)

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        return {"id2label": index.get("id2label")}

    @staticmethod
    def classes_of(backbone: Any) -> int:
        return int(backbone.config.num_embeds_ada_norm)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        output: Tensor = self.backbone(x_t, timestep=t, class_labels=condition["labels"]).sample
        return output

    def usage(self) -> list[str]:
        return [self._usage("[207]")]
