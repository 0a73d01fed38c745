"""A teacher whose score is known exactly: a mixture of Gaussians in closed form."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.config import TeacherConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, Schedule, expand
from pipeline.diffusion.prediction import edm_error_weight
from pipeline.models.condition import ClassLabels
from pipeline.models.denoiser import Denoiser
from pipeline.models.family import Family, register_family
from pipeline.models.folder import ModelFolder


@register_family
class GaussianMixture(Denoiser, Family):
    r"""The exact E[x0 | x_t] of an equal-weight mixture of Gaussians, one per class.

    One component N(mu, Q diag(v) Q^T) has
    x0 = mu + Q diag(alpha v / (alpha^2 v + sigma^2)) Q^T (x_t - alpha mu); without a condition
    the components are weighed by their posterior probability.

    Args:
        means: (K, D) with D = C H W, data units.
        variances: (K, D), positive, along the columns of the basis.
        basis: Q, (K, D, D) orthonormal columns; None for independent pixels.
        shape: One image, (C, H, W).
        schedule: Its noise process.
        delay: Seconds that every call sleeps, as if the network were slow.

    Source: conditional mean and evidence of a linear Gaussian model, Bishop, Pattern
    Recognition and Machine Learning, Eq. 2.115 to 2.117.
    """

    family = "gaussian"
    means: Tensor
    variances: Tensor
    basis: Tensor | None

    def __init__(
        self,
        means: Tensor,
        variances: Tensor,
        basis: Tensor | None,
        shape: tuple[int, int, int],
        schedule: Schedule | None = None,
        delay: float = 0.0,
    ):
        super().__init__()
        self.schedule = schedule or EDM()
        self.shape = shape
        self.conditioner = ClassLabels(len(means), null_label=-1)
        self.delay = delay
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("basis", basis)

    @classmethod
    def load(cls, folder: ModelFolder | None, teacher: TeacherConfig) -> "GaussianMixture":
        gaussian = teacher.gaussian
        return gaussian_teacher(gaussian.shape, gaussian.classes, teacher.delay)

    @classmethod
    def fingerprint_settings(cls, teacher: TeacherConfig, backbone: Mapping[str, Any]) -> str:
        return json.dumps(teacher.gaussian.model_dump(mode="json"))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See `Denoiser.forward`; without labels, or with the label -1, the whole mixture."""
        time.sleep(self.delay)
        flat, t = x_t.flatten(1), t.expand(len(x_t))[:, None]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        labels = condition.get("labels")
        if labels is None:
            labels = torch.full((len(flat),), -1, device=x_t.device)
        known = self._component(flat, alpha, sigma, labels.clamp(min=0))[0].view_as(x_t)
        if labels.is_meta or (labels >= 0).all():  # there without data
            return known
        every = torch.arange(len(self.means), device=x_t.device)
        parts = [self._component(flat, alpha, sigma, k.expand(len(flat))) for k in every]
        weights = torch.stack([evidence for _, evidence in parts]).softmax(0)
        means = torch.stack([x0 for x0, _ in parts])
        mixture = (weights[..., None] * means).sum(0).view_as(x_t)
        return torch.where(expand(labels < 0, x_t), mixture, known)

    def error_weight(self, t: Tensor) -> Tensor:
        """Of the networks that learn from it, which are in EDM's preconditioning."""
        assert isinstance(self.schedule, EDM)
        return edm_error_weight(t, self.schedule.sigma_data)

    def _component(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E[x0 | x_t, label], (B, D), and log p(x_t | label) up to a constant, (B,)."""
        mean, variance = self.means[label].to(x_t.dtype), self.variances[label].to(x_t.dtype)
        centred = x_t - alpha * mean
        if self.basis is not None:
            basis = self.basis[label].to(x_t.dtype)
            centred = torch.einsum("bij,bi->bj", basis, centred)
        total = alpha**2 * variance + sigma**2
        x0 = alpha * variance / total * centred
        if self.basis is not None:
            x0 = torch.einsum("bij,bj->bi", basis, x0)
        evidence = -0.5 * (centred**2 / total + total.log()).sum(1)
        return mean + x0, evidence


def gaussian_teacher(
    shape: tuple[int, int, int], classes: int, delay: float = 0.0
) -> GaussianMixture:
    """The analytic teacher of the configs: fixed random means of RMS 0.5, pixels of std 0.25."""
    pixels = math.prod(shape)
    means = 0.5 * seeds.noise(0, torch.arange(classes), (pixels,))
    variances = torch.full((classes, pixels), 0.25**2)
    return GaussianMixture(means, variances, None, shape, delay=delay)
