"""Weights of a diffusers folder: which files hold them, and whether their network takes them."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

BACKBONES = ("unet", "transformer", "transformer_2")
"""Where the weights of networks lie that predict x0; the last is beside the one before."""
_NAME = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
_OTHERS = (".safetensors", ".bin", ".ckpt", ".msgpack")
_TOKENIZER = (".json", ".txt", ".model", ".jinja")
"""How a tokenizer's files end; the last is its chat template."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_BESIDE = re.compile(
    r"(.*\.)?position_ids|decoder\..*|lm_head\..*"  # of T5
    r"|vision_model\..*|(text|visual)_projection\.weight|logit_scale"  # of CLIP
)
"""What a text encoder's file may have beside the encoder: old buffers, and the other half of it."""
_WAYS_OUT = (
    (
        re.compile(r"(.*\.)?(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale)"),
        "scaled fp8 files are not read: use the bf16 or fp16 original",
    ),
    (
        re.compile(r".*\.(base_layer|lora_[A-Za-z_]+)(\..*)?"),
        "a LoRA is still in it: fuse_lora(); unload_lora_weights(), and save the model once more",
    ),
    (
        re.compile(".*"),
        "its weights are not those of its config.json: copy both once more, from one model",
    ),
)
"""Names of weights that no network takes, and what the user can do about them."""


def weight_files(part: Path, way_out: str = "name another folder") -> list[Path]:
    """The files with a part's weights in full precision, sorted: one, or several and their index.

    Args:
        part: Folder of the part, such as `unet/`.
        way_out: What the user can do if it has no weights at all.

    Raises:
        UserError: If there are none in full precision in safetensors, the index is damaged or not
            there, or a file is not there or a pointer of git-lfs.
    """
    files = sorted(file for file in part.glob("*") if _NAME.fullmatch(file.name))
    found = {file.name for file in files}
    for index in (file for file in files if file.suffix == ".json"):
        for name in sorted(_indexed(index) - found):
            raise UserError(f"no {part / name}, which {index.name} names: copy it there as well")
    missing = part / weights_name(part)
    if any(name.endswith(".safetensors") for name in found):
        if all(_SHARD.fullmatch(name) for name in found):
            raise UserError(f"no {missing}.index.json, but {min(found)}: copy it there as well")
        need_content(files)
        return files
    if others := sorted(file.name for file in part.glob("*") if file.suffix in _OTHERS):
        raise UserError(
            f"no {missing}, but {', '.join(others)}: neither pickles nor variants such as fp16 are "
            "read; save the model once more, in float32 and as safetensors"
        )
    raise UserError(f"no {missing}: {way_out}")


def weights_name(part: Path) -> str:
    """The file with all of a part's weights, as transformers and diffusers call it."""
    text = part.name.startswith("text_encoder")
    return f"{'model' if text else 'diffusion_pytorch_model'}.safetensors"


def need_content(files: Iterable[Path]) -> None:
    """Raises UserError if a file cannot be read, or is what git-lfs left in its place."""
    for file in files:
        try:
            with file.open("rb") as stream:
                begin = stream.read(len(_POINTER))
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}; copy it once more") from error
        if begin == _POINTER:
            raise UserError(
                f"{file} is a pointer of git-lfs, not the file: run git lfs pull in its folder"
            )


def misfit(report: Mapping[str, Any], encoder: bool = False) -> str | None:
    """What a network has no weights for, or does not take of its files, and the way out; or None.

    Args:
        report: What `from_pretrained` tells with `output_loading_info`.
        encoder: Whether the files may hold what stands beside a text encoder.
    """
    spare = sorted(
        key for key in report["unexpected_keys"] if not (encoder and _BESIDE.fullmatch(key))
    )
    found = {
        "no weights for": sorted(report["missing_keys"]),
        "the network does not take": spare,
        "of another shape are": sorted(key for key, *_ in report["mismatched_keys"]),
    }
    told = [f"{what} {_some(keys)}" for what, keys in found.items() if keys]
    hint = next(way for names, way in _WAYS_OUT if any(map(names.fullmatch, spare or [""])))
    return "; ".join([*told, hint]) if told else None


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def part_files(part: Path) -> list[Path]:
    """The files of a part that a pipeline reads, sorted; none if there is no such part.

    Raises:
        UserError: As `weight_files`.
    """
    if not part.is_dir():
        return []
    if part.name.startswith("tokenizer") or part.name.endswith("processor"):
        return sorted(file for file in part.glob("*") if file.suffix in _TOKENIZER)
    if part.name == "guider":
        return [part / "guider_config.json"]
    return sorted([part / "config.json", *weight_files(part)])


def weights_digest(folder: str | Path) -> str | None:
    """SHA-256 of a saved network's weights; None if there are none."""
    digest = hashlib.sha256()
    parts = [part for name in BACKBONES if (part := Path(folder) / name).is_dir()]
    for file in (file for part in parts for file in weight_files(part)):
        digest.update(file_sha256(file))
    return digest.hexdigest() if parts else None


def _indexed(index: Path) -> set[str]:
    try:
        return set(from_json(index.read_text())["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: {type(error).__name__}: {error}") from error
