"""A teacher: a small one trained on real images, of classes or of text, or one of a file."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import (
    Config,
    DataConfig,
    NetworkConfig,
    S3Config,
    TeacherConfig,
    TrainingConfig,
)
from pipeline.data.captioned import SOURCES, CaptionedImages, image_sources, load_captioned
from pipeline.data.fetch import fetch, fetch_inputs
from pipeline.data.images import load_images
from pipeline.data.storage import Storage, ensure_json
from pipeline.diffusion import seeds
from pipeline.diffusion.losses import denoising_loss
from pipeline.diffusion.noise import EDM, diffuse
from pipeline.models.edm_import import import_edm
from pipeline.models.ema import ema_of
from pipeline.models.export.save import new_folder, read_provenance, save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.single_file import SingleFile
from pipeline.training.from_scratch import ramp
from pipeline.utils.errors import UserError
from pipeline.utils.files import check_writable, file_sha256
from pipeline.utils.progress import Progress
from pipeline.utils.uris import is_remote

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_OF_CLASSES = {"steps", "batch_size", "lr", "ema", "p_mean", "p_std"}
"""Settings of a training on classes."""
_FREE = {"workers", "cpus", "gpus", "checkpoint_every"}
"""Settings of a training on text that may change before it is at its end."""

TextTrainer = Callable[[CaptionedImages, dict[str, Any], dict[str, object]], None]
"""Who trains a teacher of text: gets images, settings and what to note, and runs `train_text`."""


def train_text(
    found: CaptionedImages, settings: dict[str, Any], provenance: dict[str, object]
) -> None:
    """What every worker does; the first one saves the teacher.

    Args:
        found: The images.
        settings: Of the run.
        provenance: What the teacher's folder notes.
    """
    from pipeline.training.text_teacher import train_text_teacher  # transformers, an extra

    config = Config.model_validate(settings)
    teacher = config.teacher

    def save(pipeline: Any) -> None:
        with new_folder(teacher.output, provenance) as folder:
            pipeline.save_pretrained(folder)
            (folder / SOURCES).write_text(json.dumps(image_sources(str(config.data.folder))))

    train_text_teacher(found, config.network, teacher.training, config.seed, _states(teacher), save)


def make_teacher(config: Config, train: TextTrainer = train_text) -> None:
    """Train or import the configured teacher and save it as a diffusers folder, once.

    Args:
        config: Of the run.
        train: Trains a teacher of text; this process alone unless given.

    Raises:
        UserError: If the output folder holds something else than this very teacher, or
            `teacher.file` is not what can be read.
    """
    teacher = config.teacher
    if teacher.kind == "gaussian":
        print("teacher  the gaussian teacher is a formula: nothing to train")
        return
    if config.data.name is None and not teacher.file:
        raise UserError(
            "data.name: null leaves the teacher without images to learn from; name a set, or set "
            "teacher.output to a model that is trained already"
        )
    if is_remote(teacher.output):
        raise UserError(
            f"teacher.output: {teacher.output} is there to be read; write into a local folder"
        )
    text, training = teacher.training.kind == "text", teacher.training
    branches = {"data": config.data, "network": config.network}
    recipe = {name: branch.model_dump(mode="json") for name, branch in branches.items()}
    recipe["training"] = training.model_dump(mode="json", include=None if text else _OF_CLASSES)
    provenance = _file(teacher.file) if teacher.file else {"seed": config.seed, **recipe}
    if single := _single_file(teacher, config.s3):
        provenance |= single.provenance
    verb = "imported" if teacher.file else "trained"
    if (found := read_provenance(teacher.output)) is not None:
        if found != provenance:
            raise UserError(
                f"teacher.output: {teacher.output} holds a model made otherwise "
                "(see its provenance.json); choose another folder or remove it"
            )
        print(f"teacher  {teacher.output} is {verb} already")
        return
    check_writable(Path(teacher.output), "teacher.output")
    if single:
        with new_folder(teacher.output, provenance) as folder:
            single.save(folder)
    elif teacher.file:
        save_denoiser(import_edm(teacher.file), teacher.output, provenance)
    elif text:
        if find_spec("transformers") is None:
            raise UserError(
                "teacher.training.kind: text needs transformers (extra `text`): pip install "
                "'ray-dmd[text]'"
            )
        source = str(config.data.folder)
        captioned = load_captioned(source, config.data.size, config.s3, "data.folder")
        recipe["training"] = training.model_dump(mode="json", exclude={"text": _FREE})
        states = Storage(str(_states(teacher)), config.s3, "teacher.output")
        begun = {"seed": config.seed, **recipe, "images": captioned.digest()}
        ensure_json(states, "provenance.json", begun, "teacher.output")
        train(captioned, config.model_dump(mode="json"), provenance)
        shutil.rmtree(_states(teacher), ignore_errors=True)
    else:
        images = fetch_inputs(config, "data").data
        network = _trained(images, config.network, teacher.training, config.seed)
        save_denoiser(network, teacher.output, provenance)
    print(f"teacher  saved {teacher.output}")


def _states(teacher: TeacherConfig) -> Path:
    """Folder of the states of a training of text that is not at its end."""
    return Path(f"{teacher.output}.training")


def _file(path: str) -> dict[str, object]:
    if is_remote(path):
        raise UserError(f"teacher.file: {path} is no local file; download it first")
    try:
        digest = file_sha256(Path(path)).hex()
    except OSError as error:
        raise UserError(
            f"teacher.file: cannot read {path}: {error.strerror}; name an EDM file (.pkl), a model "
            "on latents (.safetensors), or null to train"
        ) from error
    return {"imported": Path(path).name, "sha256": digest}


def _single_file(teacher: TeacherConfig, credentials: S3Config) -> SingleFile | None:
    """A model on latents in one file; None if another kind of file, or none, is given."""
    file, base = teacher.file or "", teacher.base
    if Path(file).suffix in _PICKLES:
        raise UserError(
            f"teacher.file: {file} is a pickle, which may run code and is not read; take the model "
            "as .safetensors"
        )
    if Path(file).suffix != ".safetensors":
        if base is not None:
            raise UserError(
                f"teacher.base: {base} needs a .safetensors in teacher.file; set it to null"
            )
        return None
    if base is None:
        raise UserError(
            f"teacher.base: null, but {file} holds neither configs nor tokenizers, and nothing is "
            "downloaded that is not named: name the diffusers folder of the model it was tuned from"
        )
    return SingleFile(Path(file), fetch(base, credentials, "teacher.base"))


def _trained(
    images: DataConfig, network: NetworkConfig, training: TrainingConfig, seed: int
) -> UNet2D:
    data = load_images(images.name, images.size, images.folder)
    shape = (data.images.shape[1], data.images.shape[2], data.images.shape[3])
    unet = new_unet(network, shape, data.classes, seed)
    return train(unet, data.images, data.labels, training, seed)


def train(
    network: UNet2D, images: Tensor, labels: Tensor, training: TrainingConfig, seed: int
) -> UNet2D:
    """Train a denoiser in EDM's preconditioning; returns the moving average of its weights.

    Args:
        network: The network, trained in place.
        images: Real images, (N, C, H, W), in [-1, 1].
        labels: Their classes, (N,) int64.
        training: Steps, batch size, learning rate, noise distribution.
        seed: Of the order of the images and of the noise.

    Source: Karras et al., 2022, arXiv 2206.00364, Table 1, Training.
    """
    schedule = network.schedule
    assert isinstance(schedule, EDM)
    rng = seeds.generator("teacher", seed)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=training.lr, betas=(0.9, 0.99), fused=True
    )
    ema = ema_of(network, training.ema)
    network.train()
    with Progress(training.steps, "teacher", "steps") as bar:
        for step in range(training.steps):
            for group in optimizer.param_groups:
                group["lr"] = training.lr * ramp(step, training.steps)
            rows = torch.randint(len(images), (training.batch_size,), generator=rng)
            normal = torch.randn(training.batch_size, generator=rng)
            sigma = (training.p_mean + training.p_std * normal).exp()
            eps = torch.randn(images[rows].shape, generator=rng)
            x_t = diffuse(images[rows], eps, sigma, schedule)
            condition = network.conditioner(labels[rows], len(rows))
            prediction = network(x_t, sigma, condition)
            loss = denoising_loss(prediction, images[rows], network.error_weight(sigma))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(network)
            bar.update(1, loss=loss.item())
    averaged = ema.module
    assert isinstance(averaged, UNet2D)
    return averaged
