"""Images of any captions: the student's, and the teacher's at several guidances."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.config import PairsConfig
from pipeline.diffusion import seeds
from pipeline.evaluation.generate import generate, generators
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.scores import diversity
from pipeline.evaluation.speed import Generate
from pipeline.models.condition import Prompts
from pipeline.models.denoiser import Denoiser
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class CaptionImages:
    """Who makes images of captions.

    Attributes:
        makers: By name, a network and what samples it.
        batch_size: Images at once.
    """

    makers: Mapping[str, tuple[Denoiser, Generate]]
    batch_size: int

    @classmethod
    def of(
        cls,
        networks: Mapping[str, Denoiser],
        pairs: PairsConfig,
        guidances: Sequence[float],
        batch_size: int,
    ) -> "CaptionImages":
        """Student, teacher, and the teacher at further guidances.

        Args:
            networks: "student" and "teacher".
            pairs: How the teacher makes images.
            guidances: Scales in place of that of `pairs`.
            batch_size: Images at once.
        """
        student, teacher = networks["student"], networks["teacher"]
        by_student, by_teacher = generators(student, teacher, pairs)
        makers = {"student": (student, by_student), "teacher": (teacher, by_teacher)}
        for scale in guidances:
            guided = pairs.model_copy(update={"guidance": scale})
            makers[f"teacher at {scale:g}"] = teacher, generators(student, teacher, guided)[1]
        return cls(makers, batch_size)

    def only(self, *names: str) -> "CaptionImages":
        """These makers alone."""
        return replace(self, makers={name: self.makers[name] for name in names})

    def images(self, captions: Sequence[str], seed: int, first: int) -> dict[str, Tensor]:
        """By maker an image of each caption, (n, 3, H, W), all from the same noise.

        Args:
            captions: Any.
            seed, first: Of the noise, and its first number.

        Raises:
            UserError: If an image is not finite, or a network takes stored captions alone.
        """
        ids, found = first + torch.arange(len(captions)), {}
        for who, (network, by) in self.makers.items():
            noise = seeds.noise(seed, ids, network.shape, seeds.EVALUATION)
            labels, label = _labels(network, captions), f"{who}, {len(captions)} captions"
            images = generate(by, noise, labels, self.batch_size, label)
            found[who] = network.decode(images).cpu()
        return found


@torch.no_grad()
def variety(
    read: Callable[[Tensor], Tensor], images: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> dict[str, Any]:
    """How much two images of one caption differ, with its interval.

    Args:
        read: Features, (n, D), of images, (n, 3, H, W).
        images, others: By who made them, of the same captions; of `others` there may be fewer.

    Returns:
        By who made both, the mean over captions of `diversity`.
    """
    found = {}
    for who, second in others.items():
        two = torch.cat([images[who][: len(second)], second]).clamp(-1, 1)
        features = torch.cat([read(batch).cpu() for batch in two.split(100)])
        which = torch.arange(len(second)).repeat(2)
        found[who] = bootstrap.mean(diversity(features, which).values)._asdict()
    return found


def _labels(network: Denoiser, captions: Sequence[str]) -> Tensor:
    """Numbers of any captions, as the network's conditioner knows them."""
    conditioner = network.conditioner
    if not isinstance(conditioner, Prompts):
        raise UserError(
            "evaluate.judged: captions are judged of a network that encodes them; set it to {} or "
            "leave distill.conditions out"
        )
    return torch.tensor([conditioner.label(caption) for caption in captions])
