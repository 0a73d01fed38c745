"""What makes conditions of prompts, without the network that is told them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pipeline.config import TeacherConfig
from pipeline.data.plans import ConditionPlan
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import Prompts, read_prompts
from pipeline.models.family import family_of
from pipeline.models.folder import ModelFolder, config_alone, need_parts
from pipeline.models.latent_network import LatentNetwork
from pipeline.models.loading import open_folder
from pipeline.models.prompted_network import TEXT, PromptedNetwork
from pipeline.models.weights import part_files
from pipeline.utils.errors import UserError
from pipeline.utils.files import file_sha256

_TEMPLATE = ".jinja"


def load_prompts(teacher: TeacherConfig) -> Prompts:
    """What makes the teacher's conditions of prompts; its backbone is not read.

    Raises:
        UserError: If the encoders cannot be loaded, or the teacher takes no prompts.
    """
    folder, family = _prompted(teacher)
    backbone = config_alone(folder, family.backbone_parts()[0])
    return family.prompts_of(family.load_frozen(folder, backbone), backbone, teacher)


def reads_padding(teacher: TeacherConfig) -> bool:
    """Whether the teacher sees what encoders make of padding; raises as `load_prompts`."""
    return _prompted(teacher)[1].reads_padding


def own_guidance(teacher: TeacherConfig) -> float:
    """By what the teacher's pipeline guides where it is told nothing, as the pipeline counts.

    1 where that is nothing: of teachers without prompts too, and those that know no other condition
    to be guided away from. Of a local folder its JSON files are read.

    Raises:
        UserError: If they cannot be, or are of no family.
    """
    folder = open_folder(teacher.output)
    family = family_of(folder)
    if not issubclass(family, LatentNetwork):
        return 1.0
    backbone = config_alone(folder, family.backbone_parts()[0])
    if family.classes_of(backbone) or not family.guidable(backbone, family.flags(folder.index)):
        return 1.0
    return family.own_guidance(folder)


def encode_prompts(
    teacher: TeacherConfig,
    prompts: Sequence[str],
    conditioner: Prompts | None,
    device: torch.device,
) -> list[Condition]:
    """Conditions of prompts of one's own, of one row each, on the CPU.

    Args:
        teacher: With folder and prompts on this machine.
        prompts: Those to encode.
        conditioner: The teacher's, if it encodes; None: encoders are read for this call alone, and
            stay on the CPU.
        device: Where the teacher's own encodes.

    Raises:
        UserError: As `load_prompts`.
    """
    if conditioner is None:
        conditioner, device = load_prompts(teacher), torch.device("cpu")
    labels = (torch.tensor([conditioner.label(each)]) for each in prompts)
    return [conditioner(label, 1, device).to("cpu") for label in labels]


def check_sample_prompts(teacher: TeacherConfig) -> None:
    """See that the teacher takes text, and that what encodes it is there.

    Raises:
        UserError: If not.
    """
    folder = open_folder(teacher.output)
    family = family_of(folder)
    if not _takes_text(folder, family):
        raise UserError(
            f"distill.sample_prompts: {teacher.output} takes no text; leave them out: the sample "
            "grid shows its classes, if it has any"
        )
    need_parts(folder.path, folder.index, [name for name in folder.index if name.startswith(TEXT)])


def _takes_text(folder: ModelFolder, family: type) -> bool:
    if not issubclass(family, PromptedNetwork):
        return False
    if not issubclass(family, LatentNetwork):
        return True
    return family.classes_of(config_alone(folder, family.backbone_parts()[0])) is None


def condition_plan(teacher: TeacherConfig, precision: str, shard_size: int) -> ConditionPlan:
    """All that defines the conditions of the teacher's prompts; no weights are loaded.

    Args:
        teacher: With folder and prompts on this machine.
        precision, shard_size: As `embed.precision` and `embed.shard_size`.

    Raises:
        UserError: If the folder or a file of it is missing, or the teacher takes no prompts or has
            none.
    """
    folder, family = _prompted(teacher)
    if teacher.prompts is None:
        raise UserError(
            f"teacher.prompts: {teacher.output} takes text; give a file of prompts (.txt, .csv, "
            ".parquet, or the folder of a Hugging Face dataset)"
        )
    flags = family.flags(folder.index)
    guidable = family.guidable(config_alone(folder, family.backbone_parts()[0]), flags)
    tokenizers = _files(folder, "tokenizer")
    templates = [file for file in tokenizers if file.suffix == _TEMPLATE]
    return ConditionPlan(
        family=family.family,
        pipeline=f"{folder.pipeline} {json.dumps(flags, sort_keys=True)}",
        encoders=_digest(_files(folder, "text_encoder")),
        tokenizers=_digest(file for file in tokenizers if file.suffix != _TEMPLATE),
        template=_digest(templates) if family.chats else None,
        prompts=file_sha256(Path(teacher.prompts)).hex(),
        count=len(read_prompts(teacher.prompts)),
        negative_prompt=teacher.negative_prompt if guidable else None,
        precision=precision,
        shard_size=shard_size,
        images=_images(folder, family, teacher) if family.images else None,
    )


def _prompted(teacher: TeacherConfig) -> tuple[ModelFolder, type[PromptedNetwork]]:
    """The teacher's folder, and its family."""
    folder = open_folder(teacher.output)
    family = family_of(folder)
    if not issubclass(family, PromptedNetwork):
        raise UserError(f"teacher.output: {teacher.output} takes no prompts: nothing to embed")
    return folder, family


def _images(folder: ModelFolder, family: type[PromptedNetwork], teacher: TeacherConfig) -> str:
    """Fingerprint of what encodes images, and of their size."""
    files = [file for part in (*family.beside, "vae") for file in _files(folder, part)]
    return f"{_digest(files)} {teacher.picture_size}"


def _files(folder: ModelFolder, kind: str) -> list[Path]:
    """Of all parts whose names begin so, sorted."""
    parts = sorted(name for name in folder.index if name.startswith(kind))
    return [file for part in parts for file in part_files(folder.path / part)]


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 of names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.parent.name}/{file.name}\0".encode() + file_sha256(file))
    return digest.hexdigest()
