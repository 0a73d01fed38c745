"""Denoising and regression losses, as functions of tensors alone."""

from torch import Tensor

from pipeline.diffusion.noise import expand


def denoising_loss(prediction: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of a predicted clean image: trains teacher and critic.

    Args:
        prediction: Predicted x0, (B, C, H, W).
        x0: The clean image, same shape.
        weight: Weight of each sample, (B,), from `error_weight` of its network.

    Returns:
        Mean over all samples and pixels, ().

    Source: Karras et al., 2022, arXiv 2206.00364, Eq. 8; DMD (Yin et al., 2024),
    arXiv 2311.18828, Eq. 6.
    """
    return (expand(weight, x0) * (prediction - x0) ** 2).mean()


def regression_loss(x0: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of the student's images to the teacher's from the same noise.

    Args:
        x0: Student's images, (B, C, H, W).
        target: Teacher's ODE images, same shape.

    Source: DMD, arXiv 2311.18828, Eq. 9, with L2 for the distance (its CIFAR ablation).
    """
    return ((x0 - target) ** 2).mean()


def charbonnier_loss(x0: Tensor, target: Tensor, width: float = 1e-3) -> Tensor:
    """mean(sqrt(d^2 + width^2) - width) of each value's distance d: absolute, but smooth at 0.

    Args:
        x0: Images, (B, C, H, W).
        target: Same shape.
        width: In data units.

    Source: Charbonnier et al., 1994, "Two deterministic half-quadratic regularization algorithms";
    the width is SenseFlow's (arXiv 2506.00523, authors' code).
    """
    return (((x0 - target) ** 2 + width**2).sqrt() - width).mean()


HUBER = 0.00054
"""Error, in data units, below which `huber_loss` is quadratic."""


def huber_loss(x0: Tensor, target: Tensor) -> Tensor:
    """Pseudo-Huber distance of the student's images to the teacher's from the same noise.

    sqrt(m + c^2) - c with m the mean squared error of a sample and c = 0.00054. This is the
    source's distance over sqrt(CHW): a mean over pixels, as the other losses are.

    Args:
        x0: Student's images, (B, C, H, W).
        target: Teacher's ODE images, same shape.

    Returns:
        Mean over the samples, ().

    Source: Song and Dhariwal, 2023, arXiv 2310.14189, Section 3.3.
    """
    error = ((x0 - target) ** 2).flatten(1).mean(1)
    return ((error + HUBER**2).sqrt() - HUBER).mean()
