"""Gradient checkpointing: activations that the backward pass makes again instead of keeping."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint

from pipeline.models.compilation import computes_again
from pipeline.models.views import Wrapper


def recompute_blocks(backbone: Any, every: int) -> None:
    """Have a model of diffusers make the activations of its blocks again, in place.

    Args:
        backbone: The model.
        every: 1: of all its blocks; n: of the first, and every n-th after it.

    Source: Chen et al., 2016, arXiv 1604.06174.
    """
    blocks = _Blocks(every)
    backbone.register_forward_pre_hook(blocks.begin)
    backbone.enable_gradient_checkpointing(blocks)


class _Blocks:
    """Calls the blocks of a model for it; copies of the model get copies of this.

    Networks that learn here are in eval mode, without dropout, so that no state of a generator is
    kept, which on a GPU takes the host long.

    Args:
        every: As `recompute_blocks`.
    """

    def __init__(self, every: int) -> None:
        self._every, self._called = every, 0

    def begin(self, *given: object) -> None:
        """Another pass begins."""
        self._called = 0

    def __call__(self, block: Callable[..., Any], *given: Any) -> Any:
        """What the block gives."""
        number, self._called = self._called, self._called + 1
        if number % self._every or _computes_itself_again(block):
            return block(*given)
        return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)


def _computes_itself_again(block: object) -> bool:
    """As `computes_again`, also of what stands in a view for such a block."""
    while isinstance(block, Wrapper):
        block = block.inner
    return computes_again(block)
