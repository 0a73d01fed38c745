"""Which files of a diffusers folder hold its weights, whole or in several files with an index."""

import hashlib
import json
import re
from pathlib import Path

from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

_NAME = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_OTHERS = (".safetensors", ".bin", ".ckpt", ".msgpack")


def weight_files(part: Path, way_out: str = "name another folder") -> list[Path]:
    """The files with a part's weights in full precision, sorted: one, or several and their index.

    Args:
        part: Folder of the part, such as `unet/`.
        way_out: What the user can do if it has no weights at all.

    Raises:
        UserError: If there are none in full precision in safetensors, the index is damaged, or a
            file that it names is not there.
    """
    files = sorted(file for file in part.glob("*") if _NAME.fullmatch(file.name))
    found = {file.name for file in files}
    for index in (file for file in files if file.suffix == ".json"):
        for name in sorted(_indexed(index) - found):
            raise UserError(f"no {part / name}, which {index.name} names: copy it there as well")
    if any(name.endswith(".safetensors") for name in found):
        return files
    stem = "model" if part.name.startswith("text_encoder") else "diffusion_pytorch_model"
    missing = part / f"{stem}.safetensors"
    if others := sorted(file.name for file in part.glob("*") if file.suffix in _OTHERS):
        raise UserError(
            f"no {missing}, but {', '.join(others)}: neither pickles nor variants such as fp16 are "
            "read; save the model once more, in float32 and as safetensors"
        )
    raise UserError(f"no {missing}: {way_out}")


def part_files(part: Path) -> list[Path]:
    """The files of a part that a pipeline reads, sorted; none if there is no such part.

    Raises:
        UserError: As `weight_files`.
    """
    if not part.is_dir():
        return []
    if part.name.startswith("tokenizer"):
        return sorted(file for file in part.glob("*") if file.suffix in (".json", ".txt", ".model"))
    return sorted([part / "config.json", *weight_files(part)])


def weights_digest(folder: str | Path) -> str | None:
    """SHA-256 of a saved network's weights; None if there are none."""
    digest = hashlib.sha256()
    for name in ("unet", "transformer"):
        if (part := Path(folder) / name).is_dir():
            for file in weight_files(part):
                digest.update(file_sha256(file))
            return digest.hexdigest()
    return None


def _indexed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: {type(error).__name__}: {error}") from error
