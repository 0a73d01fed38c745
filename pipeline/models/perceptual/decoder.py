"""A small decoder of latents, where the teacher's VAE costs too much."""

import hashlib
from pathlib import Path

import diffusers

from pipeline.models.vae import VAE
from pipeline.models.weights import misfit
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.files import file_sha256

_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def load_decoder(folder: str) -> VAE:
    """The `AutoencoderTiny` of a diffusers folder, such as TAESD, weights in safetensors.

    Raises:
        UserError: If there is none.
    """
    try:
        network, report = diffusers.AutoencoderTiny.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if problem := misfit(report):
            raise ValueError(problem)
    except Exception as error:
        raise UserError(
            f"distill.regression.decoder: cannot load {folder}: {first_line(error)}; name a local "
            "folder with an AutoencoderTiny, or null for the teacher's VAE"
        ) from error
    return VAE(network)


def decoder_fingerprint(folder: str) -> str:
    """SHA-256 of the folder's config and weights.

    Raises:
        UserError: If one of them is missing.
    """
    digest = hashlib.sha256()
    for name in _FILES:
        try:
            digest.update(file_sha256(Path(folder) / name))
        except OSError as error:
            raise UserError(
                f"distill.regression.decoder: {folder}/{name}: {error.strerror}; name a local "
                "folder with an AutoencoderTiny, or null for the teacher's VAE"
            ) from error
    return digest.hexdigest()
