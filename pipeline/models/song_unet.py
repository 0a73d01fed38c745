"""The DDPM++ network of EDM, which diffusers has not."""

import math
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

_EPS = 1e-6


class SongUNet(ModelMixin, ConfigMixin):
    """DDPM++ as EDM trains it; called like a `UNet2DModel`.

    Every residual sum is divided by sqrt(2). The encoder attends in every block of a level, the
    decoder in the last one alone, both in one head; between them stands a block that attends.

    Args:
        sample_size: Height and width, in pixels.
        in_channels, out_channels: Of the image.
        stem_channels: Of the first convolution and of the time's sines and cosines.
        block_out_channels: Of each level.
        layers_per_block: Blocks of a level in the encoder; the decoder has one more.
        attention: Whether each level attends.
        time_embedding_dim: Width of the embedding of time and class.
        num_class_embeds: Number of classes, or None.

    Source: Song et al., 2021, arXiv 2011.13456; Karras et al., 2022, arXiv 2206.00364, App. F.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        stem_channels: int,
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        attention: tuple[bool, ...],
        time_embedding_dim: int,
        num_class_embeds: int | None = None,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Any = None  # diffusers sets both
        self.time_proj = Timesteps(stem_channels, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.class_embedding = (
            None if num_class_embeds is None else nn.Embedding(num_class_embeds, stem_channels)
        )
        self.time_embedding = TimestepEmbedding(stem_channels, time_embedding_dim)
        self.conv_in = nn.Conv2d(in_channels, stem_channels, 3, padding=1)

        def block(inputs: int, outputs: int, attends: bool = False, **options: Any) -> _Block:
            return _Block(inputs, outputs, time_embedding_dim, attends, **options)

        width, skips = stem_channels, [stem_channels]
        levels = list(zip(block_out_channels, attention, strict=True))
        self.encoder = nn.ModuleList()
        for level, (channels, attends) in enumerate(levels):
            if level:
                self.encoder.append(block(width, width, down=True))
                skips.append(width)
            for _ in range(layers_per_block):
                self.encoder.append(block(width, channels, attends))
                skips.append(width := channels)
        self.decoder = nn.ModuleList([block(width, width, True), block(width, width)])
        for level, (channels, attends) in reversed(list(enumerate(levels))):
            if level < len(levels) - 1:
                self.decoder.append(block(width, width, up=True))
            for layer in range(layers_per_block + 1):
                last = layer == layers_per_block
                self.decoder.append(block(width, channels, attends and last, skip=skips.pop()))
                width = channels
        self.conv_norm_out = nn.GroupNorm(_groups(width), width, _EPS)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """See `UNet2DModel.forward`; timestep is () or (B,), EDM's log(sigma) / 4."""
        emb = self.time_proj(timestep.expand(len(sample))).to(self.dtype)
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(class_labels).to(self.dtype)
        emb = self.time_embedding(emb)
        x = self.conv_in(sample)
        skips = [x]
        for block in self.encoder:
            x = self._run(block, x, emb)
            skips.append(x)
        for block in self.decoder:
            if block.skip:
                x = torch.cat([x, skips.pop()], 1)
            x = self._run(block, x, emb)
        x = self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
        return UNet2DOutput(sample=x) if return_dict else (x,)

    def _run(self, block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            recomputed: Tensor = self._gradient_checkpointing_func(block, x, emb)
            return recomputed
        result: Tensor = block(x, emb)
        return result


class _Block(nn.Module):
    """A residual block, then attention if it attends.

    Args:
        inputs, outputs: Channels.
        embedding: Width of the embedding.
        attends: Whether it attends.
        skip: Further channels of its input, from the encoder.
        up, down: Whether it doubles or halves height and width.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        attends: bool,
        skip: int = 0,
        up: bool = False,
        down: bool = False,
    ):
        super().__init__()
        self.skip = skip
        inputs += skip
        self.resnet = ResnetBlock2D(
            in_channels=inputs,
            out_channels=outputs,
            temb_channels=embedding,
            groups=_groups(inputs),
            groups_out=_groups(outputs),
            eps=_EPS,
            output_scale_factor=math.sqrt(2),
            use_in_shortcut=inputs != outputs or up or down,
            up=up,
            down=down,
        )
        self.attention = (
            Attention(
                outputs,
                heads=1,
                dim_head=outputs,
                bias=True,
                norm_num_groups=_groups(outputs),
                eps=_EPS,
                residual_connection=True,
                rescale_output_factor=math.sqrt(2),
            )
            if attends
            else None
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, inputs + skip, H, W) and (B, embedding) -> (B, outputs, H', W')."""
        x = self.resnet(x, emb)
        return x if self.attention is None else self.attention(x)


def _groups(channels: int) -> int:
    """Groups of a norm: 32, or fewer that have 4 channels at least."""
    return min(32, channels // 4)
