"""A small classifier of real images, whose features the images are compared in."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.diffusion.seeds import generator
from pipeline.utils.progress import Progress

FEATURES = 64
_BATCH = 128
_RATE = 4e-3


class ClassifierOutput(NamedTuple):
    """What the classifier gives for a batch of images.

    Attributes:
        features: Penultimate layer, (B, 64), each about standard normal over the training images.
        logits: (B, classes).
    """

    features: Tensor
    logits: Tensor


class Classifier(nn.Module):
    """Three convolutions and two linear layers.

    The features are normalised without learnt weights, so distances between them have the same
    unit in every training.

    Args:
        channels: Of an image.
        classes: Number of classes.
        size: Height of an image; those above 8 pixels get a wider last convolution.
    """

    def __init__(self, channels: int, classes: int, size: int):
        super().__init__()
        last = 32 if size <= 8 else 64
        self.body = nn.Sequential(
            *_convolution(channels, 16),
            *_convolution(16, 32),
            nn.MaxPool2d(2),
            *_convolution(32, last),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(last * 4 * 4, FEATURES),
            nn.BatchNorm1d(FEATURES, affine=False),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(FEATURES, classes))

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Read images, (B, C, H, W) float32 in [-1, 1], H and W at least 4."""
        features = self.body(images)
        return ClassifierOutput(features, self.head(features))


def train_classifier(images: Tensor, labels: Tensor, classes: int) -> Classifier:
    """Train a classifier; the same images give the same one, whatever the run's seed.

    It is trained on one core: sums over several have other last bits, and make other features.

    Args:
        images: Real training images, (N, C, H, W) float32 in [-1, 1].
        labels: Their classes, (N,) int64.
        classes: Number of classes.

    Returns:
        The classifier on the CPU, frozen in eval mode.
    """
    steps = _steps(len(images))
    rng = generator("classifier")
    bar = Progress(steps, "classifier", "steps")
    with one_thread(), torch.random.fork_rng(devices=[]), bar:
        torch.manual_seed(0)  # initial weights and dropout
        network = Classifier(images.shape[1], classes, images.shape[2])
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.05)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(images), (_BATCH,), generator=rng)
            logits = network(moved(images[rows], rng)).logits
            loss = functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
            bar.update(1)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def read(classifier: Classifier, images: Tensor, batch_size: int = 1000) -> ClassifierOutput:
    """Features and logits of any number of images, a batch at a time."""
    parts = [classifier(batch) for batch in images.split(batch_size)]
    return ClassifierOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))


def moved(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image rotated by up to 12 degrees, scaled by up to 10% and shifted by up to 0.8 pixels.

    What comes in from outside is background, -1.
    """

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(len(images), *shape, generator=rng) - 1

    angle, zoom = math.radians(12) * uniform(), 1 + 0.1 * uniform()
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    shift = 2 * 0.8 / images.shape[-1] * uniform(2, 1)  # the whole image is 2 wide
    grid = functional.affine_grid(torch.cat([turn, shift], 2), list(images.shape), False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums over several cores have other last bits, and train another network."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _steps(count: int) -> int:
    """24 passes over the images, but at least 400 steps and at most 2000."""
    return min(max(24 * count // _BATCH, 400), 2000)


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
