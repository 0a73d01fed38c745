"""The critic: the fake score, and a discriminator on its features."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.diffusion.condition import Condition, Inputs
from pipeline.models.denoiser import blank
from pipeline.models.frozen import meta_copy
from pipeline.models.network import Network
from pipeline.models.views import Shifted, Tap, view
from pipeline.utils.errors import UserError

_SIDE = 4
_PACE = 10
"""How much faster than other weights the vectors of the steps learn, which begin at nothing."""


class Head(nn.Sequential):
    """Logits of feature maps, (B, C, *space) -> (B,), of images (H, W) or videos (F, H, W).

    Source: DMD2 (Yin et al., 2024), arXiv 2405.14867, Appendix: convolutions of stride 2 down to
    4x4, one over all of that, one to a logit. Here a side that is short already keeps its length;
    and maps of other sides than its own are averaged to as many places before the one over all.

    Args:
        channels, space: Of the maps.
    """

    def __init__(self, channels: int, *space: int) -> None:
        layers, least = list[nn.Module](), (1,) * len(space)
        convolution: Any = nn.Conv2d if len(space) == 2 else nn.Conv3d

        def add(*kernel: int, stride: tuple[int, ...], padding: int) -> None:
            layers.append(convolution(channels, channels, kernel, stride, padding))
            layers.extend((nn.GroupNorm(_groups(channels), channels), nn.SiLU()))

        while max(space) > _SIDE:
            down = tuple(2 if side > _SIDE else 1 for side in space)
            add(*(2 + each for each in down), stride=down, padding=1)
            space = tuple(side // each for side, each in zip(space, down, strict=True))
            least = tuple(side * each for side, each in zip(least, down, strict=True))
        halving = len(layers)
        add(*space, stride=(1,) * len(space), padding=0)
        super().__init__(*layers, convolution(channels, 1, 1), nn.Flatten(0))
        self.halving, self.least, self.space = halving, least, space

    def forward(self, maps: Tensor) -> Tensor:
        """Judge maps, (B, C, *space) of any sides."""
        sides = (max(pair) for pair in zip(maps.shape[2:], self.least, strict=True))
        maps = pooled(maps, tuple(sides))
        for number, layer in enumerate(self):
            maps = layer(pooled(maps, self.space) if number == self.halving else maps)
        return maps


class Mean(nn.Module):
    """Logits of feature maps, (B, C, *space) -> (B, places): the mean of the channels at each.

    Source: SiDA (Zhou et al., 2024), arXiv 2410.14919: no weight of its own, so that the encoder
    itself learns to judge.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Judge maps, (B, C, *space) of any sides."""
        return maps.mean(1).flatten(1)


class Critic(nn.Module):
    """A network that denoises the student's samples, and tells them from real images.

    A student of several steps gives other images at each. A score of all of them together is
    content when they are right on average, with first ones too soft and last ones too hard. So
    the critic is told the step: a learnt vector, zero at first, is added to its embedding of time.

    Source: the heads are DMD2's (arXiv 2405.14867, Section 4.3); its critic is not told the step.

    Args:
        denoiser: The network.
        blocks: Numbers of its `stages` whose features are judged; None: the middle one; empty: it
            only denoises.
        exits: Number of the student's steps.
        learnt: Whether a `Head` judges each block's features; else their `Mean`.

    Raises:
        UserError: If there is no such block, or its features are no maps.
    """

    def __init__(
        self,
        denoiser: Network,
        blocks: Sequence[int] | None = None,
        exits: int = 1,
        learnt: bool = True,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.exits: nn.Embedding | None = None
        if exits > 1:
            *_, bias = denoiser.get_submodule(denoiser.time_embeddings()[0]).parameters()
            zeros = torch.zeros(exits, len(bias), device=bias.device)
            self.exits = nn.Embedding.from_pretrained(zeros, freeze=False)
        stages = denoiser.stages()
        numbers = [len(stages) // 2] if blocks is None else sorted(set(blocks))
        if numbers and numbers[-1] >= len(stages):
            raise UserError(
                f"distill.gan.blocks: {numbers[-1]} is no block of the critic; it has 0 to "
                f"{len(stages) - 1}"
            )
        self.stages = [stages[number] for number in numbers]
        self.heads = nn.ModuleList(
            Head(*shape[1:]) if learnt else Mean() for shape in self._feature_shapes()
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Condition,
        step_index: int | None = None,
        judged: Inputs | None = None,
    ) -> Any:
        """`denoise`, or `denoise_and_logits` with further images that are judged alone.

        The critic in training is called here, where wrappers for several workers see it.
        """
        inputs = Inputs(x_t, t, condition)
        if judged is None:
            return self.denoise(inputs, step_index)
        return self.denoise_and_logits(inputs, step_index, judged)

    def denoise(self, inputs: Inputs, step_index: int | None = None) -> Tensor:
        """Predict x0, (B, C, H, W).

        Args:
            inputs: Diffused images.
            step_index: Which of the student's steps gave them; None: its last.
        """
        x0: Tensor = self._at_step(step_index)(*inputs)
        return x0

    def logits(self, inputs: Inputs, step_index: int | None = None) -> Tensor:
        """How real diffused images look, (B, logits), in float32 at least; arguments as above."""
        return self._judge(self._features(inputs, step_index))

    def denoise_and_logits(
        self, inputs: Inputs, step_index: int | None = None, more: Inputs | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both in one pass; the logits of further images follow those of the inputs.

        Returns:
            x0, (B, C, H, W), and logits, (B + rows of more, logits of an image).
        """
        found: list[Any] = []
        network = self._at_step(step_index)
        x0 = view(network, self._taps(network, found))(*inputs)
        maps = self._maps(found, inputs)
        if more is not None:
            rest = self._features(more, step_index)
            maps = [torch.cat(pair) for pair in zip(maps, rest, strict=True)]
        return x0, self._judge(maps)

    def _at_step(self, step_index: int | None) -> Network:
        """The network as it is for images of a step."""
        if self.exits is None:
            return self.denoiser
        index = self.exits.num_embeddings - 1 if step_index is None else step_index
        vector = _PACE * self.exits.weight[index]
        shifted = {
            name: Shifted(self.denoiser.get_submodule(name), vector)
            for name in self.denoiser.time_embeddings()
        }
        return view(self.denoiser, shifted)

    def _features(self, inputs: Inputs, step_index: int | None = None) -> list[Tensor]:
        """The judged stages' maps alone: the network ends at the last of them."""
        found: list[Any] = []
        network = self._at_step(step_index)
        network = view(network, network.up_to(self.stages[-1]))
        network = network.at(tuple(inputs.x_t.shape[1:]))
        view(network, self._taps(network, found)).output(*inputs)
        return self._maps(found, inputs)

    def _maps(self, found: Sequence[Any], inputs: Inputs) -> list[Tensor]:
        """Of what the stages give."""
        return [_map(each, inputs.x_t) for each in self.denoiser.of_stages(found, inputs)]

    def _taps(self, network: Network, found: list[Any]) -> dict[str, nn.Module]:
        names = network.tapped(self.stages)
        return {name: Tap(network.get_submodule(name), found) for name in names}

    def _judge(self, maps: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.heads, maps, strict=True)
        logits = torch.cat([head(each).reshape(len(each), -1) for head, each in pairs], 1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def _feature_shapes(self) -> list[torch.Size]:
        if not self.stages:
            return []
        at_meta = meta_copy(self)
        return [each.shape for each in at_meta._features(blank(at_meta.denoiser, 1))]


def _map(features: Tensor, x_t: Tensor) -> Tensor:
    """A stage's features as maps, (B, C, *space).

    Tokens, (B, product of the space, C), are of square patches of x_t, (B, C, H, W), or of those of
    each frame, (B, C, F, H, W).
    """
    if features.ndim == x_t.ndim:
        return features
    tokens, (*frames, height, width) = features.shape[1], x_t.shape[2:]
    patch = max(1, round((prod(x_t.shape[2:]) / tokens) ** 0.5))
    space = *frames, height // patch, width // patch
    if prod(space) != tokens:
        raise UserError(
            f"distill.gan.blocks: a block of the critic gives {tokens} tokens, which are no "
            f"patches of {height}x{width}; name other blocks"
        )
    return features.transpose(1, 2).unflatten(2, space)


def pooled(maps: Tensor, space: tuple[int, ...]) -> Tensor:
    """Maps (B, C, *sides) averaged to (B, C, *space), each place over its share of every side.

    A product of matrices: the gradient of PyTorch's own pooling adds up in any order on a GPU.
    """
    for axis, side in enumerate(space, 2):
        if (found := maps.shape[axis]) != side:
            ends = [
                (place * found // side, -(-(place + 1) * found // side)) for place in range(side)
            ]
            means = maps.new_zeros(found, side)
            for place, (first, last) in enumerate(ends):
                means[first:last, place] = 1 / (last - first)
            maps = (maps.movedim(axis, -1) @ means).movedim(-1, axis)
    return maps


def _groups(channels: int) -> int:
    """Groups of a norm: 32, or fewer that have 4 channels at least."""
    return next(
        groups for groups in (32, 16, 8, 4, 2, 1) if channels % (4 * groups) == 0 or groups == 1
    )
