"""From config and folders to networks: the teacher, and those that start from it."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

from pipeline.config import NetworkConfig, TeacherConfig
from pipeline.diffusion import seeds
from pipeline.diffusion.noise import EDM, Schedule
from pipeline.errors import UserError
from pipeline.models.adapters import Network, UNet2D, read_scheduler
from pipeline.models.analytic import gaussian_teacher
from pipeline.models.denoiser import Denoiser
from pipeline.models.latents import Latents
from pipeline.models.song_unet import SongUNet
from pipeline.models.weights import part_files, weight_files

_MAKE_TEACHER = "run jobs/teacher.py, or set teacher.output"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_FILES = ("unet/config.json", "scheduler/scheduler_config.json")
_NETWORKS = {"UNet2DModel": UNet2DModel, "SongUNet": SongUNet}
_WITH_TEXT = "UNet2DConditionModel"
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


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
        folder: The model's folder: `unet/` and `scheduler/`, and for Stable Diffusion
            `text_encoder/`, `tokenizer/` and `vae/`.
        way_out: What the user can do if it is missing.
        teacher: The prompts, for a network that takes them.

    Raises:
        UserError: If the folder is missing, is no such model, or its network, scheduler or
            prediction type is not supported.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: {way_out}")
    scheduler = _read_json(folder, "scheduler/scheduler_config.json")
    network = _read_json(folder, "unet/config.json")
    name = network.get("_class_name")
    if name not in (*_NETWORKS, _WITH_TEXT):
        known = ", ".join((*_NETWORKS, _WITH_TEXT))
        raise UserError(f"{folder}/unet is a {name}; known are {known}")
    schedule, prediction = read_scheduler(scheduler)
    if name in _NETWORKS:
        return UNet2D(_load(_NETWORKS[name], folder, "unet"), schedule, prediction)
    return _load_text_unet(folder, teacher or TeacherConfig(), schedule, prediction, scheduler)


def _load_text_unet(
    folder: Path,
    teacher: TeacherConfig,
    schedule: Schedule,
    prediction: str,
    scheduler: dict[str, Any],
) -> Network:
    index = _read_json(folder, "model_index.json")
    if (name := index.get("_class_name")) not in _PIPELINES:
        raise UserError(f"{folder} is a {name}; known with text are {', '.join(_PIPELINES)}")
    try:
        from pipeline.models.text import load_text
        from pipeline.models.text_unet import TextUNet2D
    except ImportError as error:
        raise UserError(
            f"{folder} needs the package transformers on every node (extra `text`): pip install "
            "transformers"
        ) from error
    unet = _load(UNet2DConditionModel, folder, "unet")
    latents = Latents(_load(AutoencoderKL, folder, "vae"))
    try:
        text = load_text(folder, teacher.prompts, teacher.negative_prompt, index)
    except Exception as error:
        raise UserError(f"cannot load {folder}/text_encoder: {_first_line(error)}") from error
    return TextUNet2D(unet, schedule, prediction, text, latents, scheduler)


def _load(kind: Any, folder: Path, part: str) -> Any:
    """A part of a diffusers folder, from safetensors alone, in float32."""
    try:
        weight_files(folder / part)
        network, report = kind.from_pretrained(
            folder,
            subfolder=part,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"cannot load {folder}/{part}: {_first_line(error)}") from error
    if missing := report["missing_keys"]:
        raise UserError(f"cannot load {folder}/{part}: no weights for {', '.join(missing[:3])}")
    return network


def load_teacher(teacher: TeacherConfig) -> Denoiser:
    """The frozen teacher, in eval mode and without gradients; raises as `load_denoiser`."""
    if teacher.kind == "gaussian":
        gaussian = teacher.gaussian
        network: Denoiser = gaussian_teacher(gaussian.shape, gaussian.classes, teacher.delay)
    else:
        network = load_denoiser(teacher.output, _MAKE_TEACHER, teacher)
    return network.eval().requires_grad_(False)


def load_student(folder: str | Path, teacher: TeacherConfig | None = None) -> Denoiser:
    """A saved student, in eval mode and without gradients; arguments as `load_denoiser`."""
    student = load_denoiser(folder, "run jobs/distill.py, or set evaluate.student", teacher)
    return student.eval().requires_grad_(False)


def new_student(
    teacher: Denoiser, network: NetworkConfig, seed: int, recompute: bool = False
) -> Network:
    """A trainable copy of the teacher; for an analytic teacher, a small network from scratch.

    The critic starts as a student too: all three networks have one architecture. With
    `recompute` the backward pass makes the activations again instead of keeping them.
    """
    student: Network
    if isinstance(teacher, Network):
        student = copy.deepcopy(teacher).train().requires_grad_(True)
    else:
        student = new_unet(network, teacher.shape, teacher.classes, seed)
    if recompute:
        student.unet.enable_gradient_checkpointing()
    return student


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
    files = [folder / name for name in _FILES] + weight_files(folder / "unet", _MAKE_TEACHER)
    if (folder / "text_encoder").is_dir():
        files.append(folder / "model_index.json")
    for part in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae"):
        files += part_files(folder / part)
    files += [Path(teacher.prompts)] if teacher.prompts else []
    digest.update(teacher.negative_prompt.encode())
    for file in files:
        if not file.is_file():
            raise UserError(f"no {file}: {_MAKE_TEACHER}")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no diffusers model: cannot read {file} ({_first_line(error)})"
        ) from error
    return content if isinstance(content, dict) else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
