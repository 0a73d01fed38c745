"""A transformer on the latents of a VAE."""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from pipeline.models.latent_network import LatentNetwork


class LatentTransformer(LatentNetwork):
    """A transformer on latents.

    Attributes:
        blocks: Its lists of blocks, in their order.
    """

    part = "transformer"
    time_embedding = "timestep_embedder"
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")

    def stages(self) -> list[str]:
        name, network = next(iter(self.networks.items()))
        lists = {each: getattr(network, each, ()) for each in self.blocks}
        return [f"{name}.{each}.{i}" for each, list_ in lists.items() for i in range(len(list_))]

    def tapped(self, stages: Sequence[str]) -> list[str]:
        first, *_ = names = self.networks
        return [f"{name}{stage.removeprefix(first)}" for name in names for stage in stages]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        *_, last, number = stage.split(".")
        parts: dict[str, nn.Module] = {}
        for network, module in self.networks.items():
            for name in self.blocks[self.blocks.index(last) :]:
                if blocks := getattr(module, name, None):
                    kept = blocks[: int(number) + 1] if name == last else []
                    parts[f"{network}.{name}"] = nn.ModuleList(kept)
        return parts
