"""Classifier-free guidance, in the one convention of this project."""

from torch import Tensor


def guided(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Push a conditional prediction away from the unconditional one.

    uncond + scale (cond - uncond): 0 ignores the condition, 1 is the plain conditional
    prediction, more than 1 overshoots it. Some codebases call this scale - 1.

    Args:
        uncond: Prediction without the condition, (B, ...), of any kind (x0, eps, v, flow).
        cond: Prediction with it, same shape and kind.
        scale: Guidance scale.

    Returns:
        The guided prediction, same shape and kind.

    Raises:
        ValueError: If the shapes differ.

    Source: Ho and Salimans, 2022, arXiv 2207.12598, Eq. 6, with scale = w + 1.
    """
    if uncond.shape != cond.shape:
        raise ValueError(
            f"guidance needs two predictions of one shape, got {tuple(uncond.shape)} without and "
            f"{tuple(cond.shape)} with the condition"
        )
    return uncond + scale * (cond - uncond)
