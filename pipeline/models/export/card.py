"""The README.md of a student: what it is, how it is used, where it comes from, what it may be."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from pipeline.config import settings_yaml
from pipeline.data.captioned import SOURCES
from pipeline.models.export.save import PROVENANCE
from pipeline.models.lora import SECOND, lora_files
from pipeline.models.network import Network
from pipeline.utils.untrusted import read_json, read_start

README = "README.md"
PICTURE = "samples.png"
TEACHER = "folder/of/the/teacher"
"""Stands in the code of a card for a teacher that is not on the Hub."""
_TAGS = ("diffusers", "ray-dmd", "distillation", "dmd")
_HUB = "https://huggingface.co"
_TERMS = {
    "license": re.compile(r"[\w.+-]{1,99}"),
    "license_name": re.compile(r"[\w.+ -]{1,99}"),
    "license_link": re.compile(r"(https?://)?[\w./?=&%+~-]{1,500}", re.IGNORECASE),
}
"""Name in a card's metadata -> what may stand there."""
_MARKUP = re.compile(r"([\\`*\[\]<>|&#!~$]|(?<![^\W_])_|_(?![^\W_]))")
_CARD = 2**18
"""Bytes of a teacher's card that are read."""
_LONGEST = 200
"""Characters of a name that is shown."""
_EDM = (
    "The teacher is an EDM file; NVIDIA's are CC BY-NC-SA 4.0, for non-commercial use alone, and "
    "so is this model."
)


@dataclass(frozen=True)
class Origin:
    """Where a student comes from.

    Attributes:
        teacher: Words for the teacher.
        terms: A sentence about the licence.
        name: Of the teacher, where it has one.
        metadata: What follows for the card: `base_model`, and `license` with its name and link.
    """

    teacher: str
    terms: str
    name: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def read_origin(folder: Path | None, repo: str | None = None, commit: str | None = None) -> Origin:
    """Where a student comes from, as far as its teacher's folder tells; places stay out of it.

    Args:
        folder: The teacher's, local; None for an analytic one.
        repo: owner/name, of a teacher from the Hub.
        commit: The revision of it.
    """
    if folder is None:
        formula = "an exact Gaussian score"
        terms = "The teacher is a formula: the licence is its author's to choose."
        return Origin(formula, terms, "Gaussian")
    made = _json(folder / PROVENANCE)
    teacher, name, metadata = _teacher(made), _name(made), {}
    if repo:
        name = repo.partition("/")[2]
        teacher = f"[{repo}]({_HUB}/{repo}/tree/{commit}) at commit `{commit}`"
        metadata = {"base_model": repo, "base_model_relation": "finetune"}
    if found := _terms(folder):
        link = found.get("license_link", "")
        if repo and link and "://" not in link:
            found["license_link"] = f"{_HUB}/{repo}/blob/{commit}/{link.lstrip('/')}"
        licence = _code(found.get("license_name") or found["license"])
        return Origin(teacher, f"That of the teacher: {licence}.", name, metadata | found)
    if "imported" in made and "base" not in made:
        return Origin(teacher, _EDM, name, metadata | {"license": "cc-by-nc-sa-4.0"})
    if "training" in made:
        own = "The teacher was trained by the author, whose choice it is."
        return Origin(teacher, own + _images(folder), name, metadata)
    unknown = "Unknown: that of the teacher, which names none."
    return Origin(teacher, unknown, name, metadata | {"license": "unknown"})


def model_card(
    network: Network,
    name: str,
    origin: Origin,
    made: Mapping[str, Any],
    figures: Mapping[str, Any] | None = None,
    picture: bool = False,
    more: Sequence[str] = (),
) -> str:
    """The content of a student's README.md: metadata of the Hub, then Markdown.

    Args:
        network: The student.
        name: What `from_pretrained` is given: owner/name, or a folder's name.
        origin: Where it comes from.
        made: Its provenance.
        figures: Of its evaluation, if there is one.
        picture: Whether there is a grid of samples beside it.
        more: Further ways to use it, in Markdown.
    """
    steps = len(network.sampler.timesteps)
    count, method = "one" if steps == 1 else f"{steps}", _method(made)
    recipe = method if network.lora is None else f"{method}, LoRA"
    teacher = origin.name or type(network.pipeline()).__name__.removesuffix("Pipeline")
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if network.prompts is None else network.task,
        tags=[*dict.fromkeys([*_TAGS, *recipe.lower().split(", ")]), f"{count}-step"],
        **origin.metadata,  # type: ignore[arg-type]
    )
    sections = [
        f"# {words(teacher)} in {count} step{'s' * (steps > 1)} ({recipe})",
        f"Makes an image in **{count}** network call{'s' * (steps > 1)}. Its teacher, which needs "
        f"more, is "
        f"{origin.teacher}; it was distilled by distribution matching (DMD, "
        "[arXiv 2311.18828](https://arxiv.org/abs/2311.18828)) with ray-dmd.",
        f"## Use\n\n{_block('python', usage(network, name))}",
        *_as_lora(network, name, origin.metadata.get("base_model", TEACHER)),
        *more,
    ]
    if picture:
        rows = "From one fixed noise: the teacher, this student, and what both scores make of it."
        sections.append(f"## Samples\n\n![samples]({PICTURE})\n\n{rows}")
    if figures:
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in figures.items()}
        rows = "\n".join(f"| {words(key)} | {words(each)} |" for key, each in shown.items())
        sections.append(
            f"## Figures\n\n| figure | value |\n|---|---|\n{rows}\n\nOf `jobs/evaluate.py`. "
            "Fréchet distances (`fd`) are in these features, and may be compared with others in "
            "the same at the same number of images; only Inception's with published FIDs."
        )
    recipe = settings_yaml.dump(json.loads(json.dumps(made)))
    sections += [f"## Recipe\n\n{_block('yaml', recipe)}", f"## Licence\n\n{origin.terms}"]
    body = "\n\n".join(sections)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def usage(network: Network, name: str, half: bool = False) -> str:
    """Python that makes an image of the student, or of its fp16 variant, and saves it."""
    if network.call_settings is None:
        return (
            "# diffusers cannot take this student's steps; from the run that made it:\n"
            "# python jobs/sample.py --evaluate.student <this folder>\n"
        )
    lines = ["import torch"] if half else []
    lines.append("from diffusers import DiffusionPipeline")
    lines += network.imports
    more = (', variant="fp16", torch_dtype=torch.float16' if half else "") + _left_out(network)
    lines += ["", f"student = DiffusionPipeline.from_pretrained({_literal(name)}{more})"]
    return "".join(f"{line}\n" for line in [*lines, *_call(network)])


def _as_lora(network: Network, name: str, teacher: str) -> list[str]:
    """How the adapters of a student make one of its teacher, where diffusers can load them."""
    if network.lora is None or network.call_settings is None:
        return []
    if not hasattr(pipe := network.pipeline(), "load_lora_weights"):
        return []
    scheduler, files = type(pipe.scheduler).__name__, list(lora_files(network))
    ways = ["", f", weight_name={_literal(SECOND)}, load_into_transformer_2=True"][: len(files)]
    lines = [
        f"from diffusers import {', '.join(sorted(('DiffusionPipeline', scheduler)))}",
        "",
        f"student = DiffusionPipeline.from_pretrained({_literal(teacher)}{_left_out(network)})",
        *(f"student.load_lora_weights({_literal(name)}{more})" for more in ways),
        f'student.scheduler = {scheduler}.from_pretrained({_literal(name)}, subfolder="scheduler")',
        *_call(network),
    ]
    code = "".join(f"{line}\n" for line in lines)
    return [
        f"## As a LoRA\n\n`{'` and `'.join(files)}` has what was learnt alone, for the teacher or "
        f"a model made from it (needs `peft`):\n\n{_block('python', code)}"
    ]


def _left_out(network: Network) -> str:
    """What diffusers must be told is not in the folder."""
    return "".join(f", {part}=None" for part in network.left_out)


def _call(network: Network) -> list[str]:
    """Lines that make an image of the pipeline `student`, and save it."""
    return [*network.usage(), *network.saving]


def _teacher(made: Mapping[str, Any]) -> str:
    """Words for a teacher, from its own provenance."""
    if "imported" in made:
        kind = "model in" if "base" in made else "EDM file"
        return f"the {kind} {_code(made['imported'])} (SHA-256 {_code(made.get('sha256'))})"
    if "training" in made and isinstance(made.get("data"), dict):
        return f"a small network, trained on {words(made['data'].get('name'))}"
    if "distill" in made:
        return "an earlier student of ray-dmd"
    return "a diffusers model"


def _name(made: Mapping[str, Any]) -> str:
    """The name of a teacher in its own provenance, or nothing."""
    if "imported" in made:
        return Path(str(made["imported"])).stem
    data = made.get("data")
    return str(data.get("name") or "") if "training" in made and isinstance(data, dict) else ""


def _images(folder: Path) -> str:
    """A sentence on the images that a teacher of captions learnt from, if its folder tells."""
    found = _json_list(folder / SOURCES)
    told = [", ".join(words(value) for value in each.values()) for each in found]
    return f" It learnt from images of {'; '.join(told)}." if told else ""


def _method(made: Mapping[str, Any]) -> str:
    """What the field calls a student's recipe, by its provenance; see docs/methods.md."""

    def setting(branch: str, name: str) -> Any:
        found = made.get("distill")
        found = found.get(branch) if isinstance(found, Mapping) else None
        return found.get(name) if isinstance(found, Mapping) else None

    if setting("matching", "loss") == "sid":
        return "SiD"
    if setting("augmentation", "weight"):
        return "Decoupled-DMD"
    if setting("gan", "real") and setting("gan", "divergence") in ("kl", "js"):
        return "f-distill"
    return "DMD2" if setting("gan", "real") or setting("regression", "weight") == 0 else "DMD"


def _terms(folder: Path) -> dict[str, str]:
    """The licence that a model's own card names, if it does."""
    try:
        text = read_start(folder / README, _CARD).decode(errors="replace")
        card = ModelCard(text, ignore_metadata_errors=True)
        found = {key: card.data.get(key) for key in _TERMS}
    except Exception:  # anything may stand there
        return {}
    terms = {key: value.strip() for key, value in found.items() if isinstance(value, str)}
    terms = {key: value for key, value in terms.items() if _TERMS[key].fullmatch(value)}
    return terms if "license" in terms else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(read_start(file))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _json_list(file: Path) -> list[dict[str, Any]]:
    try:
        content = read_json(read_start(file))
    except (OSError, ValueError):
        return []
    rows = content if isinstance(content, list) else []
    return [each for each in rows if isinstance(each, dict)]


def words(text: object) -> str:
    """Words of others in a sentence or a table: no Markdown, no HTML, one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split())[:_LONGEST])


def _code(text: object) -> str:
    """The same as code in a sentence."""
    return f"`{' '.join(str(text).replace('`', ' ').split())[:_LONGEST] or ' '}`"


def _literal(text: str) -> str:
    """A text in Python."""
    return json.dumps(text, ensure_ascii=False)


def _block(language: str, code: str) -> str:
    """Lines of code; nothing in them ends the block."""
    fence = max(["``", *re.findall("`+", code)], key=len) + "`"
    return f"{fence}{language}\n{code}{fence}"
