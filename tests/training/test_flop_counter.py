"""What calls do is counted without doing it, and found out once for calls of a kind."""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.frozen import meta_copy
from pipeline.training.flop_counter import Passes, counted, passes
from tests.fixtures.flops import ON_CPU


class Blocks(nn.Module):
    """Blocks that repeat, of convolutions, norms, attention and products."""

    def __init__(self) -> None:
        super().__init__()
        self.images = nn.ModuleList(
            ResnetBlock2D(in_channels=8, temb_channels=None, groups=4) for _ in range(3)
        )
        self.tokens = nn.ModuleList(BasicTransformerBlock(8, 2, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.images:
            x = block(x, None)
        rows = x.flatten(2).transpose(1, 2)
        for block in self.tokens:
            rows = block(rows)
        return rows


def on_the_cpu(network: nn.Module, image: Tensor) -> Passes:
    """The same by PyTorch's own counter, really computed."""

    def count(call) -> int:
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            call()
        return counter.get_total_flops()

    forward = count(lambda: network(image))
    learns = count(lambda: network(image).sum().backward()) - forward
    given, network = image.clone().requires_grad_(), network.requires_grad_(False)
    back = count(lambda: network(given).sum().backward()) - forward
    return Passes(forward, back, learns)


def test_passes_are_what_torch_counts_the_second_time_too() -> None:
    network, image = Blocks(), torch.randn(1, 8, 6, 6)
    at_meta = meta_copy(network).requires_grad_()
    frozen = meta_copy(network).requires_grad_(False)

    def found() -> Passes:
        learns = passes(at_meta, image.to("meta"), to_image=False)
        alone = passes(frozen, image.to("meta"), to_weights=False)
        return Passes(learns.forward, alone.to_image, learns.to_weights)

    assert found() == found() == on_the_cpu(network, image)


def test_calls_of_another_kind_are_found_out_anew() -> None:
    x, whole = torch.ones(3, 4, device="meta"), torch.ones(3, 4, dtype=torch.int64, device="meta")
    for _ in range(2):
        assert counted(lambda: x @ x.T)[0] == 2 * 3 * 4 * 3
        assert counted(lambda: x.T @ x)[0] == 2 * 4 * 3 * 4
        assert counted(lambda: (whole + 1).dtype)[1] == torch.int64
        assert counted(lambda: (whole + 1.0).dtype)[1] == torch.float32
        assert counted(lambda: x.sum(0, keepdim=True).shape)[1] == (1, 4)
        assert counted(lambda: x.sum(1, keepdim=True).shape)[1] == (3, 1)


def test_what_is_on_the_cpu_is_computed() -> None:
    for start in (0, 2):
        assert counted(lambda start=start: torch.arange(start, start + 4).sum().item())[1] == (
            6 + 4 * start
        )
