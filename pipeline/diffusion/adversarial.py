"""What a discriminator's logits are good for: GAN losses, and weights of the matching loss."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import softplus

RATIOS = (0.1, 20.0)
"""Ends of the density ratio that logits give, as in the code of f-distill's authors (FastGen)."""


def fool_loss(fake: Tensor) -> Tensor:
    """The student's non-saturating loss, mean softplus(-logit), of logits of its samples.

    Source: Goodfellow et al., 2014, arXiv 1406.2661, Section 3; DMD2 (Yin et al., 2024),
    arXiv 2405.14867, Section 4.3.
    """
    return softplus(-fake).mean()


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean softplus(logit) of samples and mean softplus(-logit) of real images, added.

    Source: as `fool_loss`.
    """
    return softplus(fake).mean() + softplus(-real).mean()


def smoothness_loss(real: Tensor, nearby: Tensor, distance: float) -> Tensor:
    """Approximate R1: mean squared difference of logits to those of the input plus noise.

    Args:
        real: Logits of real images.
        nearby: Of the same ones with Gaussian noise added to the input, same shape.
        distance: Standard deviation of that noise; its square divides the loss, which so is near
            the squared gradient of the logit.

    Source: Lin et al., 2025, "Diffusion Adversarial Post-Training", arXiv 2501.08316, Eq. 3.
    """
    return ((real - nearby) / distance).square().mean()


DIVERGENCES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "reverse-kl": None,
    "kl": lambda ratio: ratio,
    "js": lambda ratio: ratio / (1 + ratio),
    "jeffreys": lambda ratio: 0.4 * ratio + 0.6,
}
"""f-divergences by their weight f''(r) r^2 of the ratio r = real / fake; None: 1, DMD's own.

On DMD's loss they are f-distill's (arXiv 2502.15681), on SiD's those of Uni-Instruct (Wang et al.,
2025), arXiv 2505.20755, whose authors' code has the shares of Jeffreys' divergence, 0.4 forward and
0.6 reverse.
"""


def ratio_weights(logits: Tensor, divergence: str) -> Tensor | None:
    """Weight of every sample's matching loss that makes it the gradient of another divergence.

    Args:
        logits: Of the discriminator at the diffused samples, (B, any): each log(real / fake).
        divergence: A name in `DIVERGENCES`.

    Returns:
        (B,), without gradient, of mean 1; None for weight 1.

    Source: f-distill (Xu et al., 2025), arXiv 2502.15681, Theorem 1 and Table 1. As in FastGen the
    ratio is clipped to `RATIOS` and its weight then divided by the mean over the samples.
    """
    weight = DIVERGENCES[divergence]
    if weight is None:
        return None
    weights = weight(logits.detach().mean(1).exp().clamp(*RATIOS))
    return weights / weights.mean()
