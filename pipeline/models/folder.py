"""Parts of a diffusers folder: configs, and networks from safetensors alone."""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic_core import from_json

from pipeline.models.vocabulary import need_letters, need_vocabulary
from pipeline.models.weights import misfit, weight_files
from pipeline.utils.errors import UserError, first_line

INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_IMAGES = "preprocessor_config.json"


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
        """Class of its pipeline, with its module if it is code of its own; "" if it names none."""
        name = self.index.get("_class_name") or ""
        return ".".join(map(str, name)) if isinstance(name, list) else str(name)

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
    side = sides.pop() if sides else None
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
    index = read_index(path)
    match index.get("scheduler"):
        case [_, str(name)]:  # diffusers opens the file as this class, whatever the file says
            scheduler["_class_name"] = name
    return ModelFolder(path, index, backbone, scheduler)


def read_index(path: Path) -> dict[str, Any]:
    """Content of a folder's `model_index.json`; empty if there is none."""
    return read_json(path, INDEX) if (path / INDEX).is_file() else {}


def backbone_folder(path: Path) -> Path:
    """Where the backbone of a model lies: `transformer/`, `unet/`, or the model's own folder."""
    if (path / "transformer").is_dir() or "transformer" in read_index(path):
        return path / "transformer"
    return place(path, "unet")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file; raises UserError if there is none."""
    file = folder / name
    try:
        content = from_json(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        match content.get("_class_name"):
            case str() | None | [str(), str()]:  # the second is a pipeline in a file of its own
                pass
            case name:
                raise ValueError(f"its _class_name is {json.dumps(name)}; copy it once more")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no diffusers model: cannot read {file} ({first_line(error)})"
        ) from error
    return content


def place(folder: Path, part: str) -> Path:
    """Where a part of a pipeline lies: in its own folder, or in the pipeline's (google/ddpm-*)."""
    flat = not (folder / part).is_dir() and any(folder.glob("*config.json"))
    return folder if flat else folder / part


def config_alone(folder: ModelFolder, part: str) -> Any:
    """What has the `config` of a backbone, as the network would, but no weights."""
    from diffusers.configuration_utils import FrozenDict

    kind = part_class(folder.path, part, folder.index.get(part))
    taken = inspect.signature(kind.__init__).parameters.values()
    defaults = {each.name: each.default for each in taken if each.default is not each.empty}
    return SimpleNamespace(config=FrozenDict({**defaults, **folder.backbone}))


def load_network(kind: Any, folder: Path) -> Any:
    """A network of diffusers or transformers, in float32, with all of its weights.

    Args:
        kind: Its class.
        folder: Where its config and weights are.

    Raises:
        UserError: If it cannot be read, is quantised or has an adapter, or its weights are not
            those that the network takes, each of them and no others.
    """
    diffusers = hasattr(kind, "load_config")
    weight_files(folder)
    _need_plain(folder)
    own = {} if diffusers else {"dtype": torch.float32}
    try:
        network, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            **own,
        )
    except Exception as error:
        raise UserError(
            f"cannot load {folder}: {first_line(error)}; copy its config.json and weights once "
            "more, from one model"
        ) from error
    if problem := misfit(report, encoder=not diffusers):
        raise UserError(f"cannot load {folder}: {problem}")
    return network


def _need_plain(folder: Path) -> None:
    """Raises UserError if a network is not what its config and weights alone make of it."""
    if "quantization_config" in read_json(folder, "config.json"):
        raise UserError(
            f"cannot load {folder}: its config.json has a quantization_config, and quantised "
            "weights are not read: use the bf16 or fp16 original"
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"cannot load {folder}: an adapter lies beside its weights (adapter_config.json): "
            "merge it and save the model once more, or remove it"
        )


def need_package(name: str, folder: Path) -> None:
    """Raises UserError if a package of the extra `text` is not there."""
    if find_spec(name) is None:
        raise UserError(
            f"{folder} needs the package {name} on every node (extra `text`): pip install {name}"
        )


def load_parts(folder: Path, index: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The components of a pipeline, as its index names them; None for those it has not.

    Args:
        folder: Of the pipeline.
        index: Content of its `model_index.json`.
        wanted: Names of the components.

    Raises:
        UserError: If one is not of diffusers or transformers, is not there or cannot be read.
    """
    kinds = {name: part_class(folder, name, index.get(name)) for name in sorted(wanted)}
    need_parts(folder, index, kinds)
    return {name: kind and _open(kind, folder / name) for name, kind in kinds.items()}


def need_parts(folder: Path, index: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError if one of the parts is not there, although the index names it."""
    for name in names:
        if index.get(name) not in (None, [None, None]) and not (folder / name).is_dir():
            raise UserError(f"no {folder / name}, which {INDEX} names: copy it there as well")


def part_class(folder: Path, part: str, entry: Any) -> Any:
    """The class of a part, of its entry in the index; None for a part that is left out.

    Of a processor of text and images, the tokenizer that it wraps is all that prompts need.

    Raises:
        UserError: If it is not of diffusers, its pipelines (Kolors') or transformers, or not there.
    """
    match entry:
        case None | [None, None]:
            return None
        case [str(library), str(kind)]:
            module = _module(library)
        case _:
            raise UserError(
                f"{folder / INDEX}: {part} is {json.dumps(entry)}, not a library and its class: "
                "copy the file once more"
            )
    if module is None:
        raise UserError(f"{folder}: {part} is a {library}.{kind}, code that is never run")
    if part.startswith("tokenizer") and kind.endswith("Processor"):
        kind = "AutoTokenizer"
    found = getattr(import_module(module), kind, None)
    if not isinstance(found, type):
        package = module.partition(".")[0]
        raise UserError(f"{folder}: {library} has no {kind}; pip install --upgrade {package}")
    return found


def _module(library: str) -> str | None:
    """Where the classes of a library are, as an index calls it; None for code that is not known."""
    if library in _LIBRARIES:
        return library
    own = f"diffusers.pipelines.{library}"
    return own if library.isidentifier() and find_spec(own) else None


def _open(kind: Any, part: Path) -> Any:
    """A network, tokenizer, scheduler or guider."""
    if issubclass(kind, torch.nn.Module) or kind.__name__ == "AutoModel":
        return load_network(kind, part)
    tokenizer = part.name.startswith("tokenizer")
    if part.name == "processor":
        _need_processor(kind, part)
    if part.name == "image_processor" and not (file := part / _IMAGES).is_file():
        raise UserError(f"no {file}, which says how images are read: copy it there too")
    if tokenizer:
        need_vocabulary(kind, part)
        if not (part / "tokenizer.json").exists() and any(part.glob("*.model")):
            need_package("sentencepiece", part)
    try:
        opened = kind.from_pretrained(part, local_files_only=True)
    except Exception as error:
        raise UserError(f"cannot load {part}: {first_line(error)}") from error
    if tokenizer:
        need_letters(opened, part)
    if part.name == "processor":
        need_letters(opened.tokenizer, part)
    return opened


def _need_processor(kind: Any, part: Path) -> None:
    """Raises UserError if what reads images beside prompts is not there, or cannot be opened."""
    need_vocabulary(kind, part)
    names = ("processor_config.json", _IMAGES)
    if not any((part / name).is_file() for name in names):
        raise UserError(f"no {' nor '.join(str(part / name) for name in names)}: copy it there too")
    if "video_processor" in kind.get_attributes():  # transformers opens none without it
        need_package("torchvision", part)
