"""Buckets: samples of several shapes, each with its share of a set or of a run."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where one of a numbered sequence falls: its bucket, and its rank among those of it."""

    bucket: int
    rank: int


@dataclass(frozen=True)
class Buckets:
    """Shapes of samples, and how often each comes.

    Args:
        shapes: Of one sample, (C, *space) each; no two alike.
        weights: Their shares, as whole numbers above 0.

    A numbered sequence, as of shards or of microbatches, is dealt to them from a deck that holds as
    many cards of each bucket as its weight says, shuffled anew for every round. So shares are exact
    in every round, and the place of any number follows from it alone.
    """

    shapes: tuple[Shape, ...]
    weights: tuple[int, ...]

    @classmethod
    def one(cls, shape: Shape) -> "Buckets":
        """All samples of one shape."""
        return cls((shape,), (1,))

    def __str__(self) -> str:
        return " or ".join("x".join(map(str, shape)) for shape in self.shapes)

    @property
    def round(self) -> int:
        """Cards of the deck: the smallest number that all shares of it are whole."""
        return sum(self._shares)

    @property
    def largest(self) -> Shape:
        """The shape of the most numbers."""
        return max(self.shapes, key=math.prod)

    def place(self, number: int, *key: int | str) -> Place:
        """The bucket of a number of the sequence, and how many of that bucket come before it.

        Args:
            number: At least 0.
            key: What the sequence is for, such as ("microbatches", seed).
        """
        shares = self._shares
        turn, position = divmod(number, sum(shares))
        dealt = _deck(shares, key, turn)
        bucket = dealt[position]
        return Place(bucket, turn * shares[bucket] + dealt[:position].count(bucket))

    @property
    def _shares(self) -> tuple[int, ...]:
        common = math.gcd(*self.weights)
        return tuple(weight // common for weight in self.weights)


@lru_cache(maxsize=16)
def _deck(shares: tuple[int, ...], key: tuple[int | str, ...], turn: int) -> tuple[int, ...]:
    """The buckets of a round, shuffled by a hash: the same on every machine, in every version."""
    cards = [bucket for bucket, share in enumerate(shares) for _ in range(share)]

    def draw(card: int) -> bytes:
        return hashlib.blake2b(json.dumps([*key, turn, card]).encode(), digest_size=16).digest()

    return tuple(cards[card] for card in sorted(range(len(cards)), key=draw))
