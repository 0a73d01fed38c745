"""What a family of models declares, and the registry of all of them."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pipeline.config import TeacherConfig
from pipeline.diffusion.noise import Schedule
from pipeline.models.denoiser import Denoiser
from pipeline.models.folder import ModelFolder
from pipeline.utils.errors import UserError


class Family:
    """A family of models: all that is known of it stands in one file of `models/families/`.

    Attributes:
        family: Its name.
        pipelines: Classes of diffusers' pipelines whose folders are of this family.
        takes: Noise schedules that its networks can be asked on, each with its predictions.
        chats: Whether prompts go through the chat template of its tokenizer.
        beside: Folders of its models that read the images beside prompts, beside VAE and text
            encoders.
    """

    family: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[Mapping[type[Schedule], tuple[str, ...]]] = {}
    chats: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def reads(cls, folder: ModelFolder) -> bool:
        """Whether a folder is of this family."""
        return folder.pipeline in cls.pipelines

    @classmethod
    def problem(cls, folder: ModelFolder) -> str | None:
        """What in a folder of this family is not supported, or None; asked before it is loaded."""
        return None

    @classmethod
    def load(cls, folder: ModelFolder | None, teacher: TeacherConfig) -> Denoiser:
        """The network of a folder.

        Args:
            folder: None for a family without files.
            teacher: Prompts, sizes and the like.

        Raises:
            UserError: If it cannot be read, or a setting does not fit.
        """
        raise NotImplementedError

    @classmethod
    def fingerprint_settings(cls, teacher: TeacherConfig, backbone: Mapping[str, Any]) -> str:
        """Settings that change what the network computes, beside its files, prompts and size.

        Args:
            teacher: The settings.
            backbone: Content of the backbone's `config.json`.
        """
        return ""

    @classmethod
    def check_noise(cls, folder: ModelFolder, schedule: Schedule, prediction: str) -> None:
        """Raises UserError if the family takes no such schedule or prediction."""
        if prediction in cls.takes.get(type(schedule), ()):
            return
        known = " or ".join(
            f"{kind.__name__} with {', '.join(names)}" for kind, names in cls.takes.items()
        )
        refuse(folder, f"its noise is {type(schedule).__name__} with {prediction}, not {known}")


FAMILIES: dict[str, type[Family]] = {}
"""All families, by their names."""

Kind = TypeVar("Kind", bound=type[Family])

FROM_IMAGES = "it starts from an image, and a teacher from noise; name the base model"
"""What is wrong with models that refine, edit or fill images."""
_FROM_IMAGES = re.compile("Img2Img|Inpaint|Pix2Pix|Upscale|Depth2Img")
"""In the names of their pipelines."""


def register_family(family: Kind) -> Kind:
    """Add a class to `FAMILIES`; a decorator."""
    FAMILIES[family.family] = family
    return family


def find_family(folder: ModelFolder) -> type[Family] | None:
    """The family of a folder, or None; of two that read it, the one registered later."""
    return next((each for each in reversed(FAMILIES.values()) if each.reads(folder)), None)


def family_of(folder: ModelFolder) -> type[Family]:
    """The family of a folder.

    Raises:
        UserError: If there is none, or it does not take what is in the folder.
    """
    family = find_family(folder)
    if family is None and _FROM_IMAGES.search(folder.pipeline):
        refuse(folder, FROM_IMAGES)
    if family is None:
        known = ", ".join(sorted({name for each in FAMILIES.values() for name in each.pipelines}))
        raise UserError(
            f"{folder.path} is a {folder.title}, which no family reads (known are {known}); "
            f"{folder.way_out}"
        )
    if problem := family.problem(folder):
        refuse(folder, problem)
    return family


def refuse(folder: ModelFolder, problem: str) -> None:
    """Raises the UserError of a folder whose family is known."""
    raise UserError(
        f"{folder.path} is a {folder.title} that is not supported: {problem}; {folder.way_out}"
    )
