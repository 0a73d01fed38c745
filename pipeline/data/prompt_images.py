"""The images beside prompts, which models start from that edit them: copies, named by content."""

from pathlib import Path

from PIL import Image

from pipeline.data.crop import UnreadableError, cut_image
from pipeline.utils.errors import UserError

_FOLDER = "prompt-images"


def image_file(prompts: Path, name: str) -> Path:
    """Where an image lies, by the name that a local file of prompts has for it: its SHA-256."""
    return prompts.parent / _FOLDER / name


def read_beside(file: Path, height: int, width: int) -> Image.Image:
    """An image beside a prompt, in colours; its middle, in the proportion of height and width.

    Raises:
        UserError: If it is gone or cannot be read.
    """
    try:
        return cut_image(file.read_bytes(), height, width)
    except (OSError, UnreadableError) as error:
        raise UserError(
            f"teacher.prompt_images: cannot read {file} ({error}); remove it, and run again"
        ) from error
