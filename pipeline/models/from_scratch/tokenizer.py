"""CLIP's own tokenizer, cut to the words of some captions."""

import gzip
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor
from transformers import CLIPTokenizer

from pipeline.utils.errors import UserError

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48_894
"""CLIP's, of those in the file."""
_WORDS = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
_LETTERS = [chr(code) for code in range(33, 127)]

Merge = tuple[str, str]


def cut_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer that knows every letter, and of CLIP's merges those of these captions.

    Each caption is cut into the same pieces as by CLIP's own; other words fall into shorter ones.
    It takes as many tokens as the longest caption has.

    Args:
        captions: All that will be seen in training.

    Raises:
        UserError: If CLIP's list of merges is not here.
    """
    captions, ranks = {*captions}, _merges()
    words = {word for caption in captions for word in _WORDS.findall(caption.lower())}
    used = {merge for word in words for merge in _path(word, ranks)}
    merges = sorted(used, key=ranks.__getitem__)
    tokens = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    tokens += ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    whole = CLIPTokenizer(vocab=vocab, merges=merges)
    longest = max(len(ids) for ids in whole([*captions])["input_ids"])
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=longest)


def tokens_of(captions: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Their tokens as a pipeline has them, (N, L) int64."""
    found: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return found


@cache
def _merges() -> dict[Merge, int]:
    """Each of CLIP's merges -> its rank."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "teacher.training.kind: text needs CLIP's list of word pieces, which open-clip-torch "
            "carries: pip install --no-deps open-clip-torch"
        )
    file = Path(spec.submodule_search_locations[0]) / _FILE
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()[1 : _MERGES + 1]
    pairs = (line.split() for line in lines)
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


def _path(word: str, ranks: dict[Merge, int]) -> list[Merge]:
    """The merges that put a word together, in their order."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    path = list[Merge]()
    while len(pieces) > 1:
        best = min(zip(pieces, pieces[1:], strict=False), key=lambda pair: ranks.get(pair, _MERGES))
        if best not in ranks:
            break
        path.append(best)
        pieces = list(_merged(pieces, best))
    return path


def _merged(pieces: list[str], pair: Merge) -> Iterable[str]:
    at = 0
    while at < len(pieces):
        if tuple(pieces[at : at + 2]) == pair:
            yield "".join(pair)
            at += 2
        else:
            yield pieces[at]
            at += 1
