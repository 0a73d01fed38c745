"""CLIP's own tokenizer, cut to the words of some captions."""

import gzip
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from pipeline.utils.errors import UserError

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48_894
"""CLIP's, of those in the file."""
_END = "</w>"

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
    captions, whole = list(captions), whole_tokenizer()
    pieces = {piece for caption in set(captions) for piece in whole.tokenize(caption)}
    ranks = _merges()
    merges = sorted({m for piece in pieces for m in _path(piece, ranks)}, key=ranks.__getitem__)
    cut = _tokenizer(merges)
    longest = max(len(ids) for ids in cut(captions)["input_ids"])
    return _tokenizer(merges, model_max_length=longest)


@cache
def whole_tokenizer() -> CLIPTokenizer:
    """CLIP's, of all merges; raises as `cut_tokenizer`."""
    return _tokenizer(list(_merges()))


def tokens_of(captions: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Their tokens as a pipeline has them, (N, L) int64."""
    found: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return found


def _tokenizer(merges: list[Merge], **settings: int) -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + _END for letter in letters), *map("".join, merges)]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, **settings)


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


def _path(piece: str, ranks: dict[Merge, int]) -> list[Merge]:
    """The merges that put a piece together from its letters, in their order."""
    whole = piece.removesuffix(_END)
    parts = [*whole[:-1], piece[len(whole) - 1 :]]
    path = list[Merge]()
    while len(parts) > 1:
        best = min(zip(parts, parts[1:], strict=False), key=lambda pair: ranks.get(pair, _MERGES))
        path.append(best)
        parts = list(_merged(parts, best))
    return path


def _merged(parts: list[str], pair: Merge) -> Iterable[str]:
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            yield "".join(pair)
            at += 2
        else:
            yield parts[at]
            at += 1
