"""Parts of a diffusers folder: configs, and networks from safetensors alone."""

import json
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.models.weights import weight_files
from pipeline.utils.errors import UserError, first_line

INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder: what its JSON files say.

    Attributes:
        path: The folder.
        index: Content of `model_index.json`; empty for a lone UNet without one.
        backbone: Content of the backbone's `config.json`.
        scheduler: Content of `scheduler_config.json`.
        way_out: What the user can do if it is no such model.
    """

    path: Path
    index: dict[str, Any]
    backbone: dict[str, Any]
    scheduler: dict[str, Any]
    way_out: str = "set teacher.output to another model"

    @property
    def pipeline(self) -> str:
        """Class of its pipeline; "" if it names none."""
        return str(self.index.get("_class_name", ""))

    @property
    def network(self) -> str:
        """Class of its backbone."""
        return str(self.backbone.get("_class_name"))

    def part(self, name: str) -> dict[str, Any]:
        """Content of another part's `config.json`.

        Raises:
            UserError: If it cannot be read.
        """
        return read_json(self.path, f"{name}/config.json")

    @property
    def sample_size(self) -> Any:
        """Of the backbone; a transformer without one has that of its class, here 0."""
        return self.backbone.get("sample_size", None if self.network.startswith("UNet") else 0)

    @property
    def title(self) -> str:
        """The classes of pipeline and backbone, for messages."""
        return f"{self.pipeline} with a {self.network}" if self.pipeline else self.network


def one_side(size: Any) -> int | None:
    """The one number that a `sample_size` is, or has twice; else None."""
    sides = {*size} if isinstance(size, list | tuple) else {size}
    side = sides.pop()
    return side if isinstance(side, int) and not sides else None


def size_problem(size: Any) -> str | None:
    """Why the pipelines of diffusers do not take a `sample_size`, or None."""
    if one_side(size) is not None:
        return None
    return f"its sample_size is {json.dumps(size)}, and diffusers' pipelines take one number"


def read_folder(path: Path) -> ModelFolder:
    """Read a folder's JSON files; a lone UNet and its scheduler may lie in the folder itself.

    Raises:
        UserError: If one cannot be read.
    """
    scheduler = read_json(place(path, "scheduler"), "scheduler_config.json")
    backbone = read_json(backbone_folder(path), "config.json")
    index = read_json(path, INDEX) if (path / INDEX).is_file() else {}
    match index.get("scheduler"):
        case [_, str(name)]:  # diffusers opens the file as this class, whatever the file says
            scheduler["_class_name"] = name
    return ModelFolder(path, index, backbone, scheduler)


def backbone_folder(path: Path) -> Path:
    """Where the backbone of a model lies: `transformer/`, `unet/`, or the model's own folder."""
    return path / "transformer" if (path / "transformer").is_dir() else place(path, "unet")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file; raises UserError if there is none."""
    file = folder / name
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no diffusers model: cannot read {file} ({first_line(error)})"
        ) from error
    return content if isinstance(content, dict) else {}


def place(folder: Path, part: str) -> Path:
    """Where a part of a pipeline lies: in its own folder, or in the pipeline's (google/ddpm-*)."""
    return folder / part if (folder / part).is_dir() else folder


def load_network(kind: Any, folder: Path) -> Any:
    """A network of diffusers or transformers, in float32, with all of its weights.

    Args:
        kind: Its class.
        folder: Where its config and weights are.

    Raises:
        UserError: If it cannot be read, or a weight is missing.
    """
    diffusers = kind.__module__.startswith(("diffusers.", "pipeline."))
    weight_files(folder)
    own = {"low_cpu_mem_usage": False} if diffusers else {"dtype": torch.float32}
    try:
        network, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **own
        )
    except Exception as error:
        raise UserError(f"cannot load {folder}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"cannot load {folder}: no weights for {', '.join(missing[:3])}")
    return network


def need_transformers(folder: Path) -> None:
    """Raises UserError if the package is not there."""
    if find_spec("transformers") is None:
        raise UserError(
            f"{folder} needs the package transformers on every node (extra `text`): pip install "
            "transformers"
        )


def load_parts(folder: Path, index: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The components of a pipeline, as its index names them; None for those it has not.

    Args:
        folder: Of the pipeline.
        index: Content of its `model_index.json`.
        wanted: Names of the components.

    Raises:
        UserError: If one is not of diffusers or transformers, or cannot be read.
    """
    parts: dict[str, Any] = {}
    for name in sorted(wanted):
        library, kind = index.get(name) or (None, None)
        if library is None:
            parts[name] = None
            continue
        if library not in _LIBRARIES:
            raise UserError(f"{folder}: {name} is a {library}.{kind}, code that is never run")
        found = getattr(import_module(library), str(kind), None)
        if found is None:
            raise UserError(f"{folder}: {library} has no {kind}; pip install --upgrade {library}")
        if hasattr(found, "forward"):
            parts[name] = load_network(found, folder / name)
        else:
            parts[name] = _open(found, folder, name)
    return parts


def _open(kind: Any, folder: Path, part: str) -> Any:
    """A tokenizer or scheduler."""
    try:
        return kind.from_pretrained(folder / part)
    except Exception as error:
        raise UserError(f"cannot load {folder}/{part}: {first_line(error)}") from error
