"""The critic: the fake score, and a discriminator on its features."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from pipeline.models.denoiser import Denoiser
from pipeline.models.network import Network
from pipeline.utils.errors import UserError

_SIDE = 4
_PACE = 10
"""How much faster than other weights the vectors of the steps learn, which begin at nothing."""


class Rows(NamedTuple):
    """What a denoiser is given: x_t (B, C, H, W), t (B,), and conditions (B,) or None."""

    x_t: Tensor
    t: Tensor
    labels: Tensor | None


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows one after another; if any part has labels, all have."""
    labels = [part.labels for part in parts if part.labels is not None]
    return Rows(
        torch.cat([part.x_t for part in parts]),
        torch.cat([part.t for part in parts]),
        torch.cat(labels) if labels else None,
    )


def blank(network: Denoiser, count: int) -> Rows:
    """Inputs of zeros, x_t (count, C, H, W) at the schedule's first time, where the network is."""
    weight = next(network.parameters())
    labels = None
    if network.classes is not None:
        labels = torch.zeros(count, dtype=torch.int64, device=weight.device)
    x_t = weight.new_zeros((count, *network.shape))
    return Rows(x_t, weight.new_full((count,), network.schedule.start), labels)


class Head(nn.Sequential):
    """Logits of feature maps, (B, C, H, W) -> (B,).

    Source: DMD2 (Yin et al., 2024), arXiv 2405.14867, Appendix: convolutions of stride 2 down to
    4x4, one over all of that, one to a logit.

    Args:
        channels, side: Of the maps; their height and width are alike.
    """

    def __init__(self, channels: int, side: int) -> None:
        layers: list[nn.Module] = []

        def add(convolution: nn.Conv2d) -> None:
            norm = nn.GroupNorm(_groups(channels), channels)
            layers.extend((convolution, norm, nn.SiLU()))

        while side > _SIDE:
            add(nn.Conv2d(channels, channels, 4, stride=2, padding=1))
            side //= 2
        add(nn.Conv2d(channels, channels, side))
        super().__init__(*layers, nn.Conv2d(channels, 1, 1), nn.Flatten(0))


class Critic(nn.Module):
    """A network that denoises the student's samples, and tells them from real images.

    Every call goes through `forward`, so that wrappers for several workers see it.

    A student of several steps gives other images at each. A score of all of them together is
    content when they are right on average, with first ones too soft and last ones too hard. So
    the critic is told the step: a learnt vector, zero at first, is added to its embedding of time.

    Source: the heads are DMD2's (arXiv 2405.14867, Section 4.3); its critic is not told the step.

    Args:
        denoiser: The network.
        blocks: Numbers of its `stages` whose features are judged; None: the middle one; empty: it
            only denoises.
        exits: Number of the student's steps.
        whole: Whether every call runs the network to its end, as sharded ones need.

    Raises:
        UserError: If there is no such block, or its features are no square maps.
    """

    def __init__(
        self,
        denoiser: Network,
        blocks: Sequence[int] | None = None,
        exits: int = 1,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser, self.whole = denoiser, whole
        self.exits = _exit_embedding(denoiser, exits) if exits > 1 else None
        if self.exits is not None:
            for embedding in _time_embeddings(denoiser):
                embedding.register_forward_hook(self._add_exit)
        self._exit = exits - 1
        stages = denoiser.stages()
        numbers = [len(stages) // 2] if blocks is None else sorted(set(blocks))
        if numbers and numbers[-1] >= len(stages):
            raise UserError(
                f"distill.gan.blocks: {numbers[-1]} is no block of the critic; it has 0 to "
                f"{len(stages) - 1}"
            )
        self._taps = [stages[number] for number in numbers]
        shapes = self._feature_shapes()
        for _, _, height, width in shapes:
            if height != width:
                raise UserError(
                    f"distill.gan.real: the critic's features are {height}x{width}, and a head "
                    "judges square ones; leave it null for this teacher"
                )
        self.heads = nn.ModuleList(Head(*shape[1:3]) for shape in shapes)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        judge: Literal["no", "too", "only"] = "no",
        through: bool = True,
        more: Rows | None = None,
        step_index: int | None = None,
    ) -> Any:
        """Predict x0; see `Denoiser.forward`.

        Args:
            x_t, t, labels: Diffused images.
            judge: Whether logits of them are wanted too, or alone.
            through: Whether x0 has a graph; without, it ends at the judged features.
            more: Further diffused images, judged alone.
            exit: Which of the student's steps gave the images; None: its last.

        Returns:
            x0, (B, C, H, W); with judge "too" (x0, logits) and with "only" the logits alone,
            (B + rows of more, heads), in float32 at least.
        """
        if self.exits is not None:
            self._exit = self.exits.num_embeddings - 1 if step_index is None else step_index
        if judge == "no":
            return self.denoiser(x_t, t, labels)
        found: list[list[Tensor]] = []
        x0 = None
        if judge == "only":
            found.append(self._features(Rows(x_t, t, labels)))
        else:
            after = None if through else _without_graph
            with torch.set_grad_enabled(torch.is_grad_enabled()), self._tapped(after) as features:
                x0 = self.denoiser(x_t, t, labels)
            found.append(features)
        if more is not None:
            found.append(self._features(more))
        maps = [torch.cat(parts) for parts in zip(*found, strict=True)]
        logits = torch.stack([head(each) for head, each in zip(self.heads, maps, strict=True)], 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if judge == "only" else (x0, logits)

    def _add_exit(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        assert self.exits is not None
        return output + _PACE * self.exits.weight[self._exit].to(output.dtype)

    def _features(self, rows: Rows) -> list[Tensor]:
        with (
            torch.set_grad_enabled(torch.is_grad_enabled()),
            self._tapped(_without_graph if self.whole else _stop) as features,
        ):
            try:
                self.denoiser(*rows)
            except _EnoughError:
                pass
        return features

    @contextmanager
    def _tapped(self, after: Callable[[], None] | None) -> Iterator[list[Tensor]]:
        """Collects the taps' features, as maps; `after` is called once all are there."""
        features: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            features.append(_map(output))
            if after is not None and len(features) == len(self._taps):
                after()

        handles = [tap.register_forward_hook(keep) for tap in self._taps]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _feature_shapes(self) -> list[torch.Size]:
        return [each.shape for each in self._features(blank(self.denoiser, 1))]


def _time_embeddings(denoiser: Network) -> list[TimestepEmbedding]:
    """What embeds the time, and nothing else that is embedded alike (sizes, guidance)."""
    return [
        module
        for name, module in denoiser.named_modules()
        if isinstance(module, TimestepEmbedding) and name.rpartition(".")[2].startswith("time")
    ]


def _exit_embedding(denoiser: Network, exits: int) -> nn.Embedding:
    weight = _time_embeddings(denoiser)[0].linear_2.weight
    zeros = torch.zeros(exits, len(weight), device=weight.device)
    return nn.Embedding.from_pretrained(zeros, freeze=False)


class _EnoughError(Exception):
    """All features are there."""


def _stop() -> None:
    raise _EnoughError


def _without_graph() -> None:
    torch.set_grad_enabled(False)


def _map(output: Any) -> Tensor:
    """A block's image features as (B, C, H, W); a block of two streams gives the text's first."""
    features: Tensor = output[-1] if isinstance(output, tuple) else output
    if features.ndim == 4:
        return features
    side = round(features.shape[1] ** 0.5)
    if side**2 != features.shape[1]:
        raise UserError(
            f"distill.gan.blocks: a block of the critic gives {features.shape[1]} tokens, which "
            "are no square; name other blocks"
        )
    return features.transpose(1, 2).unflatten(2, (side, side))


def _groups(channels: int) -> int:
    """Groups of a norm: 32, or fewer that have 4 channels at least."""
    return next(
        groups for groups in (32, 16, 8, 4, 2, 1) if channels % (4 * groups) == 0 or groups == 1
    )
