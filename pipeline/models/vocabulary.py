"""A tokenizer's vocabulary: whole, or no two prompts can be told apart."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

from pipeline.models.weights import need_content, part_files
from pipeline.utils.errors import UserError

_CONFIG = "tokenizer_config.json"
_WAY_OUT = "copy the tokenizer's files there once more, else prompts are not told apart"


def need_vocabulary(kind: Any, part: Path) -> None:
    """Raises UserError if a tokenizer's folder lacks its config or the files of its vocabulary.

    Args:
        kind: The tokenizer's class, which names them: one for all, or several.
        part: The folder.
    """
    files = part_files(part)
    need_content(files)
    there, names = {file.name for file in files}, dict(getattr(kind, "vocab_files_names", {}))
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
