r"""What a network's output means: every kind of prediction as x0, and its error.

With x_t = alpha x0 + sigma eps a network may predict eps, x0 itself ("sample"), the velocity
v = alpha eps - sigma x0, or the flow eps - x0. The names are diffusers' `prediction_type`.
"""

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


def _check(kind: str) -> None:
    if kind not in PREDICTIONS:
        raise ValueError(f"unknown prediction type {kind!r}; known are {', '.join(PREDICTIONS)}")


def to_x0(kind: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean image that a network's output stands for.

    Args:
        kind: One of `PREDICTIONS`.
        output: The network's output at x_t, (B, ...).
        x_t: The noisy image, same shape.
        alpha, sigma: Its factors of image and noise, broadcastable to x_t.

    Returns:
        x0, same shape and dtype as x_t.

    Raises:
        ValueError: If the kind is unknown.

    Source: eps: Ho et al., 2020, arXiv 2006.11239, Eq. 9; v: Salimans and Ho, 2022,
    arXiv 2202.00512, App. D, for any alpha^2 + sigma^2; flow: Liu et al., 2022, arXiv 2209.03003.
    """
    _check(kind)
    if kind == "epsilon":
        return (x_t - sigma * output) / alpha
    if kind == "v_prediction":
        return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
    if kind == "flow_prediction":
        return (x_t - sigma * output) / (alpha + sigma)
    return output.to(x_t.dtype)


def error_weight(kind: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Weight of the squared error of x0 that makes it that of the network's own output.

    It is the square of d output / d x0: the signal-to-noise ratio alpha^2/sigma^2 for
    eps, (alpha^2 + sigma^2)^2/sigma^2 for v, (alpha + sigma)^2/sigma^2 for the flow, 1 for x0.

    Args:
        kind: One of `PREDICTIONS`.
        alpha, sigma: Factors of image and noise, of one shape; sigma must be positive.

    Returns:
        The same shape.

    Raises:
        ValueError: If the kind is unknown.
    """
    _check(kind)
    if kind == "epsilon":
        return (alpha / sigma) ** 2
    if kind == "v_prediction":
        return (sigma / (alpha**2 + sigma**2)) ** -2
    if kind == "flow_prediction":
        return (sigma / (alpha + sigma)) ** -2
    return torch.ones_like(sigma)


def edm_inputs(x_t: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """EDM's network inputs: (c_in x_t, c_noise).

    Args:
        x_t: Noisy image, (B, ...).
        sigma: Noise level, (B, 1, ...), broadcastable to x_t.
        sigma_data: Standard deviation of the data.

    Source: Karras et al., 2022, arXiv 2206.00364, Table 1, last column.
    """
    return x_t * (sigma**2 + sigma_data**2).rsqrt(), sigma.log() / 4


def edm_to_x0(output: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """x0 = c_skip x_t + c_out output, arguments as in `edm_inputs`. Source: as there."""
    variance = sigma**2 + sigma_data**2
    return sigma_data**2 / variance * x_t + sigma * sigma_data * variance.rsqrt() * output


def consistency_to_x0(
    output: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float, sigma_min: float
) -> Tensor:
    """x0 as in `edm_to_x0`, but x_t itself where sigma is sigma_min.

    Source: Song et al., 2023, arXiv 2303.01469, Appendix C.
    """
    above = sigma - sigma_min
    skip = sigma_data**2 / (above**2 + sigma_data**2)
    return skip * x_t + above * sigma_data * (sigma**2 + sigma_data**2).rsqrt() * output


def edm_error_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """As `error_weight`, in EDM's preconditioning: 1/sigma^2 + 1/sigma_data^2. Source: as there."""
    return sigma**-2 + sigma_data**-2
