"""From config and folders to networks: the teacher, and what tells it from another."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import TeacherConfig
from pipeline.diffusion.buckets import Buckets
from pipeline.diffusion.condition import Conditioner
from pipeline.models.denoiser import Denoiser
from pipeline.models.families import FAMILIES
from pipeline.models.family import family_of, find_family
from pipeline.models.folder import (
    INDEX,
    ModelFolder,
    backbone_folder,
    config_alone,
    load_parts,
    need_parts,
    place,
    read_folder,
    read_index,
    read_json,
    size_problem,
)
from pipeline.models.latent_network import LatentNetwork
from pipeline.models.network import Network
from pipeline.models.vae import VAE
from pipeline.models.weights import part_files, weight_files
from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

_HUB = "hf://owner/name@commit"
_MAKE_TEACHER = (
    f"run jobs/teacher.py, or set teacher.output to a folder of diffusers, or to {_HUB} on the Hub"
)
_BESIDE = (
    *("vae", "transformer_2", "guider"),
    *(f"{name}{number}" for name in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")),
)
"""Folders of a model on latents that make it what it is, beside the backbone's."""


def load_denoiser(
    folder: str | Path,
    way_out: str,
    teacher: TeacherConfig | None = None,
    conditioner: Conditioner | None = None,
) -> Network:
    """The network of a diffusers folder, weights in safetensors.

    Args:
        folder: The model's folder: `unet/` or `transformer/`, `scheduler/`, and what else its
            pipeline has; a lone UNet and its scheduler may lie in the folder itself.
        way_out: What the user can do if it is missing.
        teacher: Prompts and size of images, for a network on latents.
        conditioner: Makes its conditions of prompts, so that no text encoder is read.

    Raises:
        UserError: If the folder is missing, is of no family, or its family does not take its
            network, scheduler or prediction type.
    """
    found, teacher = open_folder(folder, way_out), teacher or TeacherConfig()
    family = family_of(found)
    if conditioner is not None and issubclass(family, LatentNetwork):
        return family.load(found, teacher, conditioner)
    network = family.load(found, teacher)
    assert isinstance(network, Network)
    return network


def open_folder(folder: str | Path, way_out: str = _MAKE_TEACHER) -> ModelFolder:
    """What the JSON files of a diffusers folder say; raises UserError if it is not there."""
    _need_folder(Path(folder), way_out)
    return replace(read_folder(Path(folder)), way_out=way_out)


@dataclass(frozen=True)
class ImageFormat:
    """What a teacher takes for an image.

    Attributes:
        buckets: Shapes of what it learns at, latents or pixels.
        vae: What makes latents; None on pixels.
        classes: Number of its labels; None without any, as where prompts stand in their place.
        captions: Whether each image has a prompt.
    """

    buckets: Buckets
    vae: VAE | None
    classes: int | None
    captions: bool


def image_format(teacher: TeacherConfig) -> ImageFormat:
    """What the teacher takes for an image; of one on latents neither network nor prompts are read.

    Raises:
        UserError: As `load_teacher`.
    """
    vae = load_vae(teacher)
    if vae is None:
        network = load_teacher(teacher)
        return ImageFormat(network.buckets, None, network.classes, network.prompts is not None)
    folder = open_folder(teacher.output)
    family = family_of(folder)
    assert issubclass(family, LatentNetwork)
    backbone = config_alone(folder, family.backbone_parts()[0])
    family.check_sizes(folder, backbone, vae, teacher)
    classes = family.classes_of(backbone)
    return ImageFormat(
        family.buckets_for(backbone, vae, teacher), vae, classes, captions=classes is None
    )


def load_vae(teacher: TeacherConfig) -> VAE | None:
    """The teacher's VAE alone, or None where the teacher works on pixels.

    Raises:
        UserError: If it cannot be loaded.
    """
    folder = Path(teacher.output)
    if not _on_latents(teacher):
        return None
    found = read_folder(folder)
    family = family_of(found)
    assert issubclass(family, LatentNetwork)
    return family.vae(load_parts(folder, found.index, {"vae"})["vae"])


def vae_fingerprint(teacher: TeacherConfig) -> str:
    """SHA-256 of the VAE's config and weights; "pixels" where there is none.

    Raises:
        UserError: If it is gone from its folder.
    """
    vae = Path(teacher.output) / "vae"
    if not _on_latents(teacher):
        return "pixels"
    digest = hashlib.sha256()
    for file in sorted(vae.glob("*.json")) + sorted(vae.glob("*.safetensors")):
        digest.update(file_sha256(file))
    return digest.hexdigest()


def load_teacher(teacher: TeacherConfig, conditioner: Conditioner | None = None) -> Denoiser:
    """The frozen teacher, in eval mode and without gradients; arguments as `load_denoiser`.

    Raises:
        UserError: As `load_denoiser`, or if no pipeline of diffusers would take its students.
    """
    if teacher.kind in FAMILIES:
        network = FAMILIES[teacher.kind].load(None, teacher)
    else:
        network = load_denoiser(teacher.output, _MAKE_TEACHER, teacher, conditioner)
        problem = None if network.latents else size_problem(network.shape[1:])
        if problem:
            raise UserError(f"teacher.output: {teacher.output}: {problem}; {_MAKE_TEACHER}")
    return network.eval().requires_grad_(False)


def teacher_fingerprint(teacher: TeacherConfig) -> str:
    """SHA-256 of what the teacher computes: its weights and configs, or the analytic formula.

    Of several sizes the first bucket's stands for all: a set's plan has the others.

    Raises:
        UserError: If the folder or one of its files is missing.
    """
    digest = hashlib.sha256()
    if teacher.kind in FAMILIES:
        digest.update(FAMILIES[teacher.kind].fingerprint_settings(teacher, {}).encode())
        return digest.hexdigest()
    folder = Path(teacher.output)
    _need_folder(folder, _MAKE_TEACHER)
    backbone, scheduler = backbone_folder(folder), place(folder, "scheduler")
    files = [backbone / "config.json", scheduler / "scheduler_config.json"]
    files += weight_files(backbone, _MAKE_TEACHER)
    _need(files)
    found = read_folder(folder)
    family = find_family(found)
    parts = _BESIDE + (family.beside if family else ())
    need_parts(folder, found.index, parts)
    if family:
        digest.update(family.fingerprint_settings(teacher, found.backbone).encode())
    named = read_json(scheduler, "scheduler_config.json").get("_class_name")
    if (taken_as := found.scheduler.get("_class_name")) != named:
        digest.update(str(taken_as).encode())
    if (folder / "vae").is_dir():
        files += [folder / INDEX]
        digest.update(str(size).encode() if (size := teacher.first_size) else b"")
    unread = () if family and family.chats else (".jinja",)
    for part in parts:
        files += [file for file in part_files(folder / part) if file.suffix not in unread]
    files += [Path(teacher.prompts)] if teacher.prompts else []
    digest.update(teacher.negative_prompt.encode())
    _need(files)
    for file in files:
        digest.update(file_sha256(file))
    return digest.hexdigest()


def _on_latents(teacher: TeacherConfig) -> bool:
    """Whether there is a VAE; raises UserError if it is gone from its folder."""
    folder = Path(teacher.output)
    if teacher.kind in FAMILIES:
        return False
    need_parts(folder, read_index(folder), ["vae"])
    return (folder / "vae").is_dir()


def _need_folder(folder: Path, way_out: str) -> None:
    if folder.is_file():
        raise UserError(
            f"{folder} is a file: name the folder of a diffusers model, or {_HUB} on the Hub; of a "
            "model in one .safetensors jobs/teacher.py --import makes a folder (with teacher.base)"
        )
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: {way_out}")


def _need(files: Iterable[Path]) -> None:
    for file in files:
        if not file.is_file():
            raise UserError(f"no {file}: {_MAKE_TEACHER}")
