"""From config and folders to networks: the teacher, and what tells it from another."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DModel

from pipeline.config import NetworkConfig, TeacherConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import EDM, Flow, Schedule
from pipeline.models.analytic import gaussian_teacher
from pipeline.models.condition import read_prompts
from pipeline.models.denoiser import Denoiser
from pipeline.models.folder import load_network, load_parts, need_transformers, place, read_json
from pipeline.models.latent_network import LatentNetwork, image_size
from pipeline.models.network import Network, UNet2D
from pipeline.models.schedulers import read_scheduler
from pipeline.models.song_unet import SongUNet
from pipeline.models.stable_diffusion import StableDiffusion, StableDiffusionXL
from pipeline.models.transformers import SD3, DiT, Flux, PixArt, Sana
from pipeline.models.vae import VAE
from pipeline.models.weights import part_files, weight_files
from pipeline.utils.errors import UserError

_INDEX = "model_index.json"
_MAKE_TEACHER = "run jobs/teacher.py, or set teacher.output"
_NETWORKS = {"UNet2DModel": UNet2DModel, "SongUNet": SongUNet}
_WITH_TEXT = "UNet2DConditionModel"
_FAMILIES: dict[str, type[LatentNetwork]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "DiTPipeline": DiT,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArt,
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": Flux,
    "SanaPipeline": Sana,
}
"""Pipelines of diffusers on latents."""
_BESIDE = (
    "vae",
    *(f"{name}{number}" for name in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")),
)
"""Folders of a model on latents that make it what it is, beside the backbone's."""


def new_unet(
    network: NetworkConfig, shape: tuple[int, int, int], classes: int | None, seed: int
) -> UNet2D:
    """A small UNet in EDM's preconditioning, with fresh weights that follow from the seed.

    Args:
        network: Its widths and depths.
        shape: One image, (C, H, W).
        classes: Number of class labels, or None for an unconditional network.
        seed: Of the initial weights.
    """
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator("weights", seed).initial_seed())
        unet = UNet2DModel(
            # diffusers' pipelines understand only one number
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(network.channels),
            layers_per_block=network.layers,
            down_block_types=tuple(
                "AttnDownBlock2D" if attends else "DownBlock2D" for attends in network.attention
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if attends else "UpBlock2D" for attends in network.attention[::-1]
            ),
            norm_num_groups=network.norm_groups,
            num_class_embeds=classes,
        )
    return UNet2D(unet, EDM(), "edm")


def load_denoiser(
    folder: str | Path, way_out: str, teacher: TeacherConfig | None = None
) -> Network:
    """The network of a diffusers folder, weights in safetensors.

    Args:
        folder: The model's folder: `unet/` or `transformer/`, `scheduler/`, and what else its
            pipeline has; a lone UNet and its scheduler may lie in the folder itself.
        way_out: What the user can do if it is missing.
        teacher: Prompts and size of images, for a network on latents.

    Raises:
        UserError: If the folder is missing, is no such model, or its network, scheduler or
            prediction type is not supported.
    """
    folder, teacher = Path(folder), teacher or TeacherConfig()
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: {way_out}")
    scheduler = read_json(place(folder, "scheduler"), "scheduler_config.json")
    if (folder / "transformer").is_dir():
        return _load_latent(folder, teacher, scheduler)
    unet = place(folder, "unet")
    config = read_json(unet, "config.json")
    name = config.get("_class_name")
    if name == _WITH_TEXT:
        return _load_latent(folder, teacher, scheduler)
    if name not in _NETWORKS:
        known = ", ".join((*_NETWORKS, _WITH_TEXT))
        raise UserError(f"{unet} is a {name}; known are {known}")
    if teacher.image_size is not None:
        raise UserError(
            f"teacher.image_size: {teacher.image_size} is for models on latents; {folder} makes "
            "images of its own size"
        )
    schedule, prediction = read_scheduler(scheduler)
    _check_unet(folder, config, schedule)
    return UNet2D(load_network(_NETWORKS[name], unet), schedule, prediction, scheduler)


def _check_unet(folder: Path, config: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse by name what a UNet on images, or its student, would not be."""
    index = read_json(folder, _INDEX) if (folder / _INDEX).is_file() else {}
    if index.get("vqvae") or index.get("vae"):
        problem = "it works on latents and knows no text"
    elif config.get("out_channels") != config.get("in_channels"):
        problem = "it predicts a variance too"
    elif config.get("class_embed_type") is not None:
        problem = f"its class_embed_type is {config['class_embed_type']}"
    elif isinstance(schedule, Flow):
        problem = "no pipeline of diffusers takes its flow"
    else:
        return
    raise UserError(f"{folder} is a UNet2DModel that is not supported: {problem}")


def load_vae(teacher: TeacherConfig) -> VAE | None:
    """The teacher's VAE alone, or None where the teacher works on pixels.

    Raises:
        UserError: If it cannot be loaded.
    """
    folder = Path(teacher.output)
    if teacher.kind == "gaussian" or not (folder / "vae").is_dir():
        return None
    return VAE(load_parts(folder, read_json(folder, _INDEX), {"vae"})["vae"])


def vae_fingerprint(teacher: TeacherConfig) -> str:
    """SHA-256 of the VAE's config and weights; "pixels" where there is none."""
    vae = Path(teacher.output) / "vae"
    if teacher.kind == "gaussian" or not vae.is_dir():
        return "pixels"
    digest = hashlib.sha256()
    for file in sorted(vae.glob("*.json")) + sorted(vae.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _load_latent(folder: Path, teacher: TeacherConfig, scheduler: dict[str, Any]) -> Network:
    index = read_json(folder, _INDEX)
    if (name := index.get("_class_name")) not in _FAMILIES:
        raise UserError(f"{folder} is a {name}; known on latents are {', '.join(_FAMILIES)}")
    kind = _FAMILIES[name]
    if any(isinstance(part, list) and part[0] == "transformers" for part in index.values()):
        need_transformers(folder)
    own = read_json(folder, f"{kind.part}/config.json")
    _check_latent(folder, own, read_json(folder, "vae/config.json"), scheduler)
    pipeline = getattr(diffusers, name)
    parameters = inspect.signature(pipeline.__init__).parameters
    names = {each for each in parameters if parameters[each].default is inspect.Parameter.empty}
    unused = names & {"safety_checker", "feature_extractor"}
    parts = load_parts(folder, index, names - unused - {"self"})
    backbone, flags = parts.pop(kind.part), kind.flags(index)
    pipe = pipeline(**parts, **dict.fromkeys({*unused, kind.part}), **flags)
    size = image_size(kind, backbone, parts["vae"], teacher.image_size)
    schedule, prediction = read_scheduler(scheduler, kind.tokens(backbone, parts["vae"], size))
    if isinstance(schedule, Flow) and kind.spacing:
        schedule = replace(schedule, spacing=kind.spacing)
    prompts, negative = read_prompts(teacher.prompts), teacher.negative_prompt
    network = kind(backbone, schedule, prediction, pipe, size, prompts, negative, flags)
    network.embedded_guidance = teacher.embedded_guidance
    return network


def _check_latent(
    folder: Path, backbone: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> None:
    """Refuse by name what a network on latents would otherwise leave out."""
    if str(scheduler.get("_class_name")).startswith(("EDM", "CMStochastic")):
        problem = "its scheduler has EDM's sigmas"
    elif vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        problem = "its VAE has latents_mean and latents_std"
    elif backbone.get("time_cond_proj_dim") is not None:
        problem = "its UNet takes guidance as an input (time_cond_proj_dim)"
    else:
        return
    raise UserError(f"{folder} is a model on latents that is not supported: {problem}")


def load_teacher(teacher: TeacherConfig) -> Denoiser:
    """The frozen teacher, in eval mode and without gradients; raises as `load_denoiser`."""
    if teacher.kind == "gaussian":
        gaussian = teacher.gaussian
        network: Denoiser = gaussian_teacher(gaussian.shape, gaussian.classes, teacher.delay)
    else:
        network = load_denoiser(teacher.output, _MAKE_TEACHER, teacher)
    return network.eval().requires_grad_(False)


def teacher_fingerprint(teacher: TeacherConfig) -> str:
    """SHA-256 of what the teacher computes: its weights and configs, or the analytic formula.

    Raises:
        UserError: If the folder or one of its files is missing.
    """
    digest = hashlib.sha256()
    if teacher.kind == "gaussian":
        digest.update(json.dumps(teacher.gaussian.model_dump(mode="json")).encode())
        return digest.hexdigest()
    folder = Path(teacher.output)
    backbone = place(folder, "transformer" if (folder / "transformer").is_dir() else "unet")
    files = [backbone / "config.json", place(folder, "scheduler") / "scheduler_config.json"]
    files += weight_files(backbone, _MAKE_TEACHER)
    if files[0].is_file() and read_json(backbone, "config.json").get("guidance_embeds"):
        digest.update(str(teacher.embedded_guidance).encode())
    if (folder / "vae").is_dir():
        files += [folder / _INDEX]
        digest.update(str(teacher.image_size).encode() if teacher.image_size else b"")
    for part in _BESIDE:
        files += part_files(folder / part)
    files += [Path(teacher.prompts)] if teacher.prompts else []
    digest.update(teacher.negative_prompt.encode())
    for file in files:
        if not file.is_file():
            raise UserError(f"no {file}: {_MAKE_TEACHER}")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
