"""A tokenizer's vocabulary: whole, or no two prompts can be told apart; and that of its encoder."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from pipeline.models.weights import need_content, part_files
from pipeline.utils.errors import UserError

_PADDED = 512
"""Rows of an encoder's table come in multiples of it, or fewer, and tokenizers fill the last."""
_CONFIG = "tokenizer_config.json"
_ONE_FILE = {"tokenizer_file": "tokenizer.json"}
"""Of a class that opens any tokenizer."""
_WAY_OUT = "copy the tokenizer's files there once more, else prompts are not told apart"


def need_vocabulary(kind: Any, part: Path) -> None:
    """Raises UserError if a tokenizer's folder lacks its config or the files of its vocabulary.

    Args:
        kind: The tokenizer's class, which names them: one for all, or several.
        part: The folder.
    """
    files = part_files(part)
    need_content(files)
    there, names = (
        {file.name for file in files},
        dict(getattr(kind, "vocab_files_names", _ONE_FILE)),
    )
    if _CONFIG not in there:
        raise UserError(f"no {part / _CONFIG}, which says how long a prompt is: copy it there too")
    whole = names.pop("tokenizer_file", None)
    ways = [{whole}] if whole else []
    ways += [set(names.values())] if names else []
    if any(name.endswith(".model") for name in there) or any(way <= there for way in ways):
        return
    if ways:
        told = " nor ".join(" with ".join(sorted(way)) for way in ways)
        raise UserError(f"{part} has no vocabulary (no {told}): {_WAY_OUT}")


def need_letters(tokenizer: Any, part: Path) -> None:
    """Raises UserError if a tokenizer does not tell the letters a to z apart."""
    known = len({tuple(tokenizer(letter)["input_ids"]) for letter in ascii_lowercase})
    if known < len(ascii_lowercase):
        raise UserError(
            f"{part}: its vocabulary of {len(tokenizer)} words tells {known} of the 26 letters "
            f"apart; {_WAY_OUT}"
        )


def drop_unpaired(parts: dict[str, Any]) -> None:
    """Take out tokenizers whose encoder is left out: pipelines would give them to the next one."""
    for name in parts:
        if (
            name.startswith("tokenizer")
            and parts[name.replace("tokenizer", "text_encoder")] is None
        ):
            parts[name] = None


def chat_problem(parts: Mapping[str, Any], folder: Path) -> str | None:
    """That the tokenizer in a folder has no chat template for its prompts, or None."""
    if parts["tokenizer"].chat_template:
        return None
    return f"{folder / 'tokenizer'} has no chat template: copy its files there once more"


def text_problem(
    pipeline: Any, parts: Mapping[str, Any], backbone: str, widths: Mapping[str, Mapping[str, int]]
) -> str | None:
    """Which text encoder or tokenizer is another model's, or None.

    Args:
        pipeline: The class of diffusers' pipeline.
        parts: Its components, by their names; None for those left out.
        backbone: Name of that which takes the embeddings.
        widths: As `LatentNetwork.widths`.
    """
    hints = inspect.signature(pipeline.__init__).parameters
    for name in sorted(each for each in parts if each.startswith("text_encoder") and parts[each]):
        kind = hints[name].annotation
        if "CLIP" in str(kind) and not isinstance(parts[name], kind):  # its classes give others
            problem = f"its {name} is {type(parts[name]).__name__}, not {kind.__name__}"
            return f"{problem}: copy it once more, from this model"
        if found := _pair_problem(parts, name, name.replace("text_encoder", "tokenizer")):
            return f"{found}: copy both once more, from one model"
    for setting, summands in widths.items():
        if found := _width_problem(parts, f"{backbone}.{setting}", summands):
            return f"{found}: copy text encoders and {backbone} once more, from one model"
    return None


def _pair_problem(parts: Mapping[str, Any], name: str, beside: str) -> str | None:
    """Of a text encoder and the tokenizer beside it."""
    tokenizer, config = parts[beside], parts[name].config
    if tokenizer is None:
        return f"its model_index.json has {name}, but no {beside}"
    rows = parts[name].get_input_embeddings().num_embeddings
    if not rows - _PADDED < len(tokenizer) <= rows:
        return f"its {beside} has {len(tokenizer)} words, its {name} {rows}"
    made, read = tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
    if config.model_type.startswith("clip") and made > read:  # its prompts are filled up
        return f"its {beside} makes prompts of {made} words, its {name} reads {read}"
    return None


def _width_problem(parts: Mapping[str, Any], taken: str, summands: Mapping[str, int]) -> str | None:
    """Whether a setting, as `part.setting`, is the sum of others, of those parts that are there."""

    def value(setting: str) -> Any:
        part, key = setting.split(".")
        config = parts[part].config
        if hasattr(config, "get_text_config"):  # an encoder of images too has one for each
            config = config.get_text_config()
        return getattr(config, key)

    there = {each: n for each, n in summands.items() if parts.get(each.split(".")[0]) is not None}
    total = sum(n * value(each) for each, n in there.items())
    if not there or not isinstance(takes := value(taken), int) or takes == total:
        return None
    told = " + ".join(f"{f'{n} x ' if n > 1 else ''}{value(e)} ({e})" for e, n in there.items())
    return f"its {taken} is {takes}, not {told}"
