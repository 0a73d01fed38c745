"""Blocks are made again in the backward pass: all of them, or every n-th."""

import copy

import pytest
import torch
from torch import nn

from pipeline.models.recompute import recompute_blocks
from pipeline.models.song_unet import SongUNet


def network() -> SongUNet:
    return SongUNet(8, 3, 3, 8, (8, 8), 2, (False, True), 16)


def runs(unet: SongUNet, passes: int = 1) -> list[int]:
    """How often each block is called in so many passes, forward and backward."""
    blocks = [*unet.encoder, *unet.decoder]
    counts = dict.fromkeys(blocks, 0)

    def count(block: nn.Module, given: object) -> None:
        counts[block] += 1

    hooks = [block.register_forward_pre_hook(count) for block in blocks]
    for _ in range(passes):
        unet(torch.ones(1, 3, 8, 8), torch.ones(1)).sample.mean().backward()
    for hook in hooks:
        hook.remove()
    return list(counts.values())


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_the_first_block_and_every_nth_run_twice_in_each_pass(every):
    unet = network()
    recompute_blocks(unet, every)
    once = [1 if number % every else 2 for number in range(len(runs(unet)))]
    assert runs(unet) == once
    assert runs(unet, 3) == [3 * each for each in once]
    assert runs(copy.deepcopy(unet)) == once
