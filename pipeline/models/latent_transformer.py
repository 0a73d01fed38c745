"""A transformer on the latents of a VAE."""

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
        lists = {name: getattr(self.backbone, name, ()) for name in self.blocks}
        return [f"{self.part}.{name}.{i}" for name, each in lists.items() for i in range(len(each))]

    def up_to(self, stage: str) -> dict[str, nn.Module]:
        _, last, number = stage.split(".")
        parts: dict[str, nn.Module] = {}
        for name in self.blocks[self.blocks.index(last) :]:
            if blocks := getattr(self.backbone, name, None):
                kept = blocks[: int(number) + 1] if name == last else []
                parts[f"{self.part}.{name}"] = nn.ModuleList(kept)
        return parts
