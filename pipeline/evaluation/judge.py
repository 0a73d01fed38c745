"""A small judge, trained on real images: what an image shows, of each thing captions speak of."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.diffusion.seeds import generator
from pipeline.evaluation.classifier import one_thread
from pipeline.utils.progress import Progress

_BATCH, _RATE, _PASSES, _FEWEST = 64, 2e-3, 20, 200
_WIDTHS = (32, 64, 128)
_GRID = 4


class Judge(nn.Module):
    """Three convolutions that halve the side, and a linear layer for each question.

    Args:
        answers: Question -> the number of its answers.
    """

    def __init__(self, answers: Mapping[str, int]) -> None:
        super().__init__()
        widths = (3, *_WIDTHS)
        self.body = nn.Sequential(
            *(
                layer
                for before, after in zip(widths, widths[1:], strict=False)
                for layer in (
                    nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
            ),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(_WIDTHS[-1] * _GRID**2, 256),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(256, count) for name, count in answers.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of each question, (B, answers), for images, (B, 3, H, W) in [-1, 1]."""
        features = self.body(images)
        return {name: head(features) for name, head in self.heads.items()}


def train_judge(images: Tensor, answers: Mapping[str, Tensor]) -> Judge:
    """Train a judge; the same images give the same one, whatever the run's seed.

    Images are shifted, blurred and made noisy, so that it judges what is shown, not how sharply.

    Args:
        images: Real images, (N, 3, H, W) in [-1, 1].
        answers: Question -> its right answers, (N,) int64 from 0.

    Returns:
        The judge on the CPU, frozen in eval mode.
    """
    steps = max(_FEWEST, math.ceil(_PASSES * len(images) / _BATCH))
    rng = generator("judge")
    bar = Progress(steps, "judge", "steps")
    with one_thread(), torch.random.fork_rng(devices=[]), bar:
        torch.manual_seed(0)
        judge = Judge({name: int(right.max()) + 1 for name, right in answers.items()})
        optimizer = torch.optim.AdamW(judge.parameters(), lr=_RATE, weight_decay=0.05)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(images), (_BATCH,), generator=rng)
            found = judge(_worn(images[rows], rng))
            loss = sum(
                functional.cross_entropy(logits, answers[name][rows])
                for name, logits in found.items()
            )
            optimizer.zero_grad()
            torch.as_tensor(loss).backward()
            optimizer.step()
            rates.step()
            bar.update(1)
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def judged(judge: Judge, images: Tensor, batch_size: int = 500) -> dict[str, Tensor]:
    """The likeliest answer of each question, (N,) int64."""
    parts = [judge(batch) for batch in images.split(batch_size)]
    return {name: torch.cat([part[name].argmax(1) for part in parts]) for name in parts[0]}


def _worn(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each shifted by up to a pixel, half of them blurred, with noise of up to 0.15."""
    moved = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    down, right = torch.randint(3, (2,), generator=rng).tolist()
    height, width = images.shape[-2:]
    moved = moved[..., down : down + height, right : right + width]
    blurred = functional.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    chosen = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
    strength = 0.15 * torch.rand(len(images), 1, 1, 1, generator=rng)
    noise = torch.randn(images.shape, generator=rng)
    return torch.where(chosen, blurred, moved) + strength * noise
