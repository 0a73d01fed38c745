"""Tiny text encoders and decoders of latents, for the models of `tests.tiny_models`."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def clip_tokenizer() -> CLIPTokenizer:
    words = [*LETTERS, *(f"{each}</w>" for each in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12)


def clip(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=projection,
        eos_token_id=53,
        bos_token_id=52,
        pad_token_id=53,
    )


def t5(width: int) -> dict[str, Any]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{each}" for each in LETTERS)]
    config = T5Config(
        vocab_size=len(pieces) + 100,
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    tokenizer = T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)])
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config)}


def gemma(width: int) -> dict[str, Any]:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    vocab = {word: number for number, word in enumerate(words)}
    return {
        "tokenizer": GemmaTokenizer(vocab=vocab, merges=[]),
        "text_encoder": Gemma2Model(config),
    }


def vae(channels: int, scaling: float, shift: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=16,
        scaling_factor=scaling,
        shift_factor=shift,
    )


def dc(channels: int, scaling: float) -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=scaling,
    )


def tiny_decoder(folder: Path, channels: int = 4) -> Path:
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=channels,
    ).save_pretrained(folder)
    return folder
