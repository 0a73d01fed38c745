"""A model in one file of the original layout, as people share fine-tuned ones, as a folder.

diffusers' own converters give its weights diffusers' names. What no file holds, such as configs,
tokenizers and the scheduler, comes from the folder of the model that it was tuned from.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.models.family import family_of
from pipeline.models.folder import INDEX, read_folder
from pipeline.models.latent_network import LatentNetwork
from pipeline.models.loading import load_denoiser
from pipeline.models.schedulers import read_scheduler
from pipeline.models.weights import need_content, part_files, weights_name
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.files import file_sha256

Weights = dict[str, Tensor]

_BACKBONE = "model.diffusion_model."
_T5 = "text_encoders.t5xxl."
_CLIP_L = "text_encoders.clip_l."
_PARTS = {
    **dict.fromkeys(("first_stage_model.", "vae."), "vae"),
    **dict.fromkeys(("cond_stage_model.", "conditioner.embedders.0.", _CLIP_L), "text_encoder"),
    **dict.fromkeys(("conditioner.embedders.1.", "text_encoders.clip_g."), "text_encoder_2"),
}
"""Beginning of a name -> the part of the pipeline, beside the backbone and T5."""
_BESIDE = re.compile(
    r"(first_stage_model\.)?model_ema\..*|first_stage_model\.loss\..*"  # of training
    r"|denoiser\..*sigmas|betas|alphas_cumprod\w*|(log|sqrt|posterior)_\w+|lvlb_weights|logvar"
    r"|scale_factor|v_pred|ztsnr"
)
"""What is not of a network: averages and losses of training, and the noise, which is compared."""
_OPEN_CLIP = re.compile(
    r"transformer\..*|positional_embedding|token_embedding\.weight|ln_final\..*|text_projection"
    r"|logit_scale|attn_mask"
)
"""What OpenCLIP's text encoder has."""


class SingleFile:
    """A file and the folder of the model that it was tuned from; nothing is written yet.

    Args:
        file: A local .safetensors file: a whole model, or its backbone alone.
        base: A local diffusers folder of the same pipeline. Weights of a part that the file holds
            are not read, and may be missing.

    Raises:
        UserError: If one of them cannot be read, no family on latents reads the folder, or the
            file says otherwise of its noise than the folder's scheduler.
    """

    def __init__(self, file: Path, base: Path) -> None:
        self._file, self._weights = file, _read(file)
        if self._weights and all("lora_" in name.lower() for name in self._weights):
            raise UserError(
                f"teacher.file: {file} is a LoRA; load it into its model with diffusers, save that "
                "(fuse_lora, save_pretrained), and set teacher.output to the folder"
            )
        try:
            way_out = "set teacher.base to another folder"
            self._base = replace(read_folder(base), way_out=way_out)
            family = family_of(self._base)
        except UserError as error:
            raise UserError(f"teacher.base: {error}") from error
        if not issubclass(family, LatentNetwork):
            raise UserError(
                f"teacher.base: {base} is a {self._base.title}, and single files are "
                "read of models on latents alone; set teacher.base to the folder of one"
            )
        index, wanted = self._base.index, family.required(self._base)
        if (backbone := family.part) not in wanted:
            raise UserError(
                f"teacher.base: {base} has two networks, and a single file one; save both in the "
                "layout of that folder, and set teacher.output to it"
            )
        self._backbone = backbone
        self._parts = {
            name: index[name][-1] for name in sorted(wanted) if any(index.get(name) or ())
        }
        self._sections = self._sorted()
        if problem := self._noise_problem():
            raise UserError(f"teacher.file: {file} {problem}; set teacher.base to another folder")

    @property
    def provenance(self) -> dict[str, object]:
        """SHA-256 of what is taken from the folder."""
        digest = hashlib.sha256()
        for name, file in sorted(self._copies().items()):
            digest.update(name.encode() + file_sha256(file))
        return {"base": digest.hexdigest()}

    def save(self, folder: Path) -> None:
        """Write the model into an empty folder, in float32, and open it as a teacher is opened.

        Raises:
            UserError: If the weights are not those of the folder's configs, each of them and no
                others, or its other parts cannot be loaded.
        """
        for name, source in self._copies().items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)
        index = {
            name: [None, None] if isinstance(entry, list) and name not in self._parts else entry
            for name, entry in self._base.index.items()
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        try:
            for name, weights in self._sections.items():
                file = folder / name / weights_name(folder / name)
                save_file(_plain(self._converted(name, weights)), file)
            load_denoiser(folder, "")
        except UserError as error:
            told = str(error).replace(f"{folder}/", "")
            raise UserError(
                f"teacher.file: {self._file} does not fit teacher.base {self._base.path}, where "
                f"the model belongs that it was tuned from: {told}"
            ) from error

    def _sorted(self) -> dict[str, Weights]:
        """The file's weights by part; what is of no part is with the backbone, which refuses it."""
        t5 = "".join(name for name, kind in self._parts.items() if kind == "T5EncoderModel")
        known = {_BACKBONE: self._backbone, **_PARTS, _T5: t5}
        bare = not any(name.startswith((*known,)) for name in self._weights)
        sections: dict[str, Weights] = {}
        for name, value in self._weights.items():
            part = next((known[each] for each in known if name.startswith(each)), "")
            if part not in self._parts:
                part = self._backbone
            if not _BESIDE.fullmatch(name):
                sections.setdefault(part, {})[f"{_BACKBONE}{name}" if bare else name] = value
        return sections

    def _copies(self) -> dict[str, Path]:
        """Names in the new folder -> the files of the base that go there as they are."""
        files: list[Path] = []
        for name in self._parts:
            part = self._base.path / name
            if name in self._sections:
                files += [part / "config.json"]
            elif name == "scheduler":
                files += [part / "scheduler_config.json"]
            else:
                files += part_files(part)
        return {file.relative_to(self._base.path).as_posix(): file for file in files}

    def _noise_problem(self) -> str | None:
        """What the file says of its noise and the scheduler says otherwise, or None."""
        schedule, prediction = read_scheduler(self._base.scheduler, tokens=1)
        own, table = getattr(schedule, "alphas_cumprod", None), self._weights.get("alphas_cumprod")
        if "v_pred" in self._weights and prediction != "v_prediction":
            return f"predicts v (v_pred), the scheduler of {self._base.path} says {prediction}"
        if "ztsnr" in self._weights and (own is None or own[-1] > 1e-6):
            return f"has zero terminal SNR (ztsnr), the scheduler of {self._base.path} has not"
        if table is None or own is None or own[-1] < 1e-6:  # the code's own, not yet rescaled
            return None
        if table.shape == own.shape and torch.allclose(table.float(), own, rtol=1e-2, atol=1e-3):
            return None
        return f"has another noise (alphas_cumprod) than the scheduler of {self._base.path}"

    def _converted(self, part: str, weights: Weights) -> Weights:
        """A part's weights under diffusers' names, others under their own.

        Raises:
            UserError: If diffusers cannot convert them.
        """
        try:
            kind, config = self._parts[part], self._base.part(part)
            if (network := getattr(diffusers, kind, None)) is not None:
                return _network(network, config, weights)
            return _encoder(kind, config, weights)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"diffusers cannot convert its {part}: {first_line(error)}") from error


def _read(file: Path) -> Weights:
    need_content([file])
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"teacher.file: cannot read {file}: {first_line(error)}") from error


def _plain(weights: Mapping[str, Tensor]) -> Weights:
    """In float32, each with a memory of its own; whole numbers as they are."""
    return {
        name: value.to(
            torch.float32 if value.is_floating_point() else value.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for name, value in weights.items()
    }


def _network(kind: Any, config: Mapping[str, Any], weights: Weights) -> Weights:
    """A network of diffusers, by diffusers' converter for its class."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as KNOWN

    with torch.device("meta"):
        network = kind.from_config(config)
    bare = {name.removeprefix(_BACKBONE): value for name, value in weights.items()}
    if network.state_dict().keys() <= bare.keys():  # it has diffusers' names already
        return bare
    if kind.__name__ not in KNOWN:
        raise TypeError(f"it has no converter for a {kind.__name__}")
    convert, left = KNOWN[kind.__name__]["checkpoint_mapping_fn"], dict(weights)
    converted = convert(checkpoint=left, config=dict(network.config))
    # some converters take out what they read, others pass it on, or a view of it
    read = {value.data_ptr() for value in converted.values()}
    return {name: value for name, value in left.items() if value.data_ptr() not in read} | converted


def _encoder(kind: str, config: Mapping[str, Any], weights: Weights) -> Weights:
    """A text encoder under transformers' names: as the file has it, or OpenCLIP's."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    prefix = next(each for each in (*_PARTS, _T5) if min(weights).startswith(each))
    if any(name.startswith(inner := f"{prefix}model.") for name in weights):
        like = SimpleNamespace(config=SimpleNamespace(**config))
        converted: Weights = convert_open_clip_checkpoint(like, weights, inner)
        strange = [each for each in weights if not _OPEN_CLIP.fullmatch(each.removeprefix(inner))]
        return {name: weights[name] for name in strange} | converted
    own = {
        name.removeprefix(prefix).removeprefix("transformer."): weights[name] for name in weights
    }
    if prefix == _CLIP_L and kind.endswith("WithProjection"):  # SD3 takes it without
        own.setdefault("text_projection.weight", torch.eye(config["hidden_size"]))
    return own
