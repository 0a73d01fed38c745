"""HPSv2: which image people prefer, by a CLIP-H of theirs, from OpenCLIP's file or a folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pipeline.models.perceptual.features import normalised
from pipeline.models.scores.clip import OPENAI, Clip, of_folder, scaled_to
from pipeline.utils.errors import UserError

Weights = dict[str, Tensor]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_VISION_HEAD, _TEXT_HEAD = 80, 64
"""Width of a head of attention in ViT-H-14, which no weight tells."""
_VISION, _TEXT = "vision_model.", "text_model."
_NAMES = {
    r"visual\.class_embedding": f"{_VISION}embeddings.class_embedding",
    r"visual\.conv1\.": f"{_VISION}embeddings.patch_embedding.",
    r"visual\.positional_embedding": f"{_VISION}embeddings.position_embedding.weight",
    r"visual\.ln_pre\.": f"{_VISION}pre_layrnorm.",
    r"visual\.ln_post\.": f"{_VISION}post_layernorm.",
    r"visual\.transformer\.resblocks\.": f"{_VISION}encoder.layers.",
    r"visual\.proj$": "visual_projection.weight",
    r"token_embedding\.": f"{_TEXT}embeddings.token_embedding.",
    r"positional_embedding": f"{_TEXT}embeddings.position_embedding.weight",
    r"ln_final\.": f"{_TEXT}final_layer_norm.",
    r"transformer\.resblocks\.": f"{_TEXT}encoder.layers.",
    r"text_projection$": "text_projection.weight",
}
"""How OpenCLIP's names begin -> how transformers' do."""
_IN_LAYER = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.": ".self_attn.",
}


def load_hps(weights: str) -> Clip:
    """HPSv2 and v2.1: 100 times the cosine, as its tables have it.

    Args:
        weights: The file of OpenCLIP's ViT-H-14 that xswu/HPSv2 publishes, .pt or .safetensors, or
            a folder with one; or a folder of a `CLIPModel`, or owner/name@commit of one. No code
            of a file is run.

    Raises:
        UserError: If it holds another kind of model, or a folder several files.
        OSError, RuntimeError: If it cannot be read.

    Source: Wu et al., 2023, arXiv 2306.09341, Section 4; `hpsv2.score`.
    """
    place = Path(weights)
    if place.is_dir() and not (place / "config.json").is_file():
        files = sorted(each for each in place.iterdir() if each.suffix in _SUFFIXES)
        if len(files) != 1:
            raise UserError(f"{weights} holds {len(files)} files of weights; name the one to read")
        place = files[0]
    if not place.is_file():
        return of_folder(weights, _formula, padded)
    from pipeline.models.from_scratch.tokenizer import whole_tokenizer

    model = from_open_clip(_read(place), weights)
    side = int(model.config.vision_config.image_size)
    return Clip(model, whole_tokenizer(), *padded(side, *OPENAI), _formula(model))


def from_open_clip(weights: Weights, where: str) -> Any:
    """A `CLIPModel` of the weights of OpenCLIP's ViT-H-14, or of a smaller one with such heads.

    Args:
        weights: Under OpenCLIP's names.
        where: They come from, for messages.

    Raises:
        UserError: If they are those of another network.
    """
    from transformers import CLIPModel

    try:
        config = _config(weights)
        renamed = dict(pair for name in weights for pair in _renamed(name, weights[name].float()))
        model = CLIPModel(config)
        found = model.load_state_dict(renamed, strict=False, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{where} is no ViT-H-14 of OpenCLIP ({error})") from error
    if strange := [*found.missing_keys, *found.unexpected_keys]:
        raise UserError(f"{where} is no ViT-H-14 of OpenCLIP, or not all of one ({strange[0]})")
    return model.eval()


def padded(side: int, mean: Any, std: Any) -> tuple[Callable[[Tensor], Tensor], str]:
    """Bring the longer side of images to so many pixels, add black to a square, normalise."""

    def prepare(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        scale = side / max(height, width)
        high, wide = round(height * scale), round(width * scale)
        top, left = (side - high) // 2, (side - wide) // 2
        edges = left, side - wide - left, top, side - high - top
        images = functional.pad(scaled_to(images, (high, wide)), edges, value=-1.0)
        return normalised(images, mean, std)

    return prepare, f"bicubic with antialiasing, the longer side to {side}, black added"


def _formula(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda cosine: 100 * cosine


def _read(file: Path) -> Weights:
    if file.suffix == ".safetensors":
        return load_file(file)
    found = torch.load(file, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    return {name.removeprefix("module."): value for name, value in found.items()}


def _config(weights: Weights) -> Any:
    from transformers import CLIPConfig

    def part(prefix: str, head: int) -> dict[str, Any]:
        layers = [name for name in weights if re.fullmatch(rf"{prefix}\d+\.ln_1\.weight", name)]
        inner, width = weights[f"{prefix}0.mlp.c_fc.weight"].shape
        if width % head:
            raise ValueError(f"heads of {head} do not fit a width of {width}")
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": len(layers),
            "num_attention_heads": width // head,
            "hidden_act": "gelu",
        }

    vision = part("visual.transformer.resblocks.", _VISION_HEAD)
    text = part("transformer.resblocks.", _TEXT_HEAD)
    patch, places = weights["visual.conv1.weight"].shape[-1], weights["visual.positional_embedding"]
    words = len(weights["token_embedding.weight"])
    return CLIPConfig(
        vision_config=vision
        | {"patch_size": patch, "image_size": patch * round((len(places) - 1) ** 0.5)},
        text_config=text
        | {
            "vocab_size": words,
            "max_position_embeddings": len(weights["positional_embedding"]),
            "eos_token_id": words - 1,
        },
        projection_dim=weights["text_projection"].shape[1],
    )


def _renamed(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Under transformers' names: q, k and v are one in OpenCLIP, and its projections transposed."""
    for old, new in _NAMES.items():
        if (found := re.match(old, name)) is not None:
            name = new + name[found.end() :]
            break
    for old, new in _IN_LAYER.items():
        name = name.replace(old, new)
    if name in ("visual_projection.weight", "text_projection.weight"):
        return [(name, value.T.contiguous())]
    if ".in_proj_" in name:
        names = (name.replace(".in_proj_", f".{each}_proj.") for each in "qkv")
        return list(zip(names, (each.clone() for each in value.chunk(3)), strict=True))
    return [] if name == "attn_mask" else [(name, value)]
