"""The matching losses: what pulls the student's samples to the teacher's distribution.

A further one is a function here and an entry of `MATCHING`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from pipeline.diffusion.noise import expand


@dataclass(frozen=True)
class Matching:
    """A matching loss.

    Attributes:
        loss: (x0, real, fake) -> the loss of every sample, (B,). x0 (B, C, H, W) are the student's
            samples, with gradient; real and fake the x0 that teacher and critic predict at the
            same diffused samples.
        through_teacher, through_critic: Whether gradients flow through that prediction too, back
            into the samples.
        by_level: Whether the loss is also told the share of noise in the diffused samples,
            sigma / (alpha + sigma), (B,), in (0, 1].
    """

    loss: Callable[..., Tensor]
    through_teacher: bool = False
    through_critic: bool = False
    by_level: bool = False


def dmd(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """0.5 mean((x0 - stop(x0 - gradient))^2): its gradient is `matching_gradient` / (C H W).

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Algorithm 2.
    """
    gradient = matching_gradient(x0.detach(), real, fake)
    return 0.5 * ((x0 - (x0 - gradient).detach()) ** 2).flatten(1).mean(1)


def sid(x0: Tensor, real: Tensor, fake: Tensor, alpha: float = 1.2) -> Tensor:
    """mean((real - fake) ((real - x0) - alpha (real - fake))) over the mean distance.

    Source: Score identity Distillation (Zhou et al., 2024), arXiv 2404.04057, Algorithm 1, with the
    paper's alpha; with an alpha of 1 that of SiDA (Zhou et al., 2024), arXiv 2410.14919, in its
    authors' code.
    """
    apart = real - fake
    loss = (apart * ((real - x0) - alpha * apart)).flatten(1).mean(1)
    return loss / mean_distance(x0, real).detach()


def sgmd(x0: Tensor, real: Tensor, fake: Tensor, level: Tensor) -> Tensor:
    """0.5 mean((fake - real)^2) over the mean distance, less `RESIDUAL` of the critic's own error.

    That error is 0.5 mean((fake - x0)^2) / level, with a gradient through fake alone. The level is
    the time of the flow with the same ratio of noise to image.

    Source: Score Gradient Matching Distillation (Wu et al., 2026), arXiv 2605.30116: the teacher
    stop-gradient Fisher loss and the negative residual, with the weights of its authors' code
    (LightX2V).
    """
    apart = (fake - real).square().flatten(1).mean(1) / mean_distance(x0.detach(), real)
    residual = (fake - x0.detach()).square().flatten(1).mean(1) / level.clamp(min=1e-5)
    return 0.5 * (apart - RESIDUAL * residual)


RESIDUAL = 0.1
"""lambda of SGMD, of those in its paper the best."""
MATCHING = {
    "dmd": Matching(dmd),
    "sid": Matching(sid, through_teacher=True, through_critic=True),
    "sid-1": Matching(partial(sid, alpha=1.0), through_teacher=True, through_critic=True),
    "sgmd": Matching(sgmd, through_critic=True, by_level=True),
}


def matching_gradient(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Direction that pulls student samples toward the teacher's distribution.

    (fake - real) / mean|x0 - real|, the mean over each sample, kept from zero by 1e-5.

    Args:
        x0: Student samples, (B, C, H, W), data units in about [-1, 1].
        real: Teacher's x0 at the diffused samples, same shape, no gradient.
        fake: Critic's x0 at the same point, same shape, no gradient.

    Returns:
        Gradient of the summed loss with respect to x0, same shape.

    Raises:
        ValueError: If the shapes differ.

    Source: DMD (Yin et al., 2024), arXiv 2311.18828, Eq. 7 and 8, Algorithm 2.
    """
    if not x0.shape == real.shape == fake.shape:
        raise ValueError(f"shapes differ: {x0.shape}, real {real.shape}, fake {fake.shape}")
    return (fake - real) / expand(mean_distance(x0, real), x0)


def mean_distance(x0: Tensor, real: Tensor) -> Tensor:
    """mean|x0 - real| of every sample, (B,), kept from zero by 1e-5."""
    return (x0 - real).abs().flatten(1).mean(1).clamp(min=1e-5)
