"""What of a source is not read: counted by kind, so that nothing is missing without a word."""

import re
from collections import Counter
from pathlib import PurePosixPath

_HIDDEN = re.compile(
    r"(^|/)(\.|__MACOSX|_temporary/|lost\+found(/|$))|(^|/)_.*\.parquet$", re.IGNORECASE
)
"""Of the system or of Spark: what begins with a dot, and Parquet files below an underscore."""
_LONGEST = 8
"""Characters of an ending; what is longer is a part of the name."""


class LeftOut:
    """Files, members and images that are not read: how many of each kind, and the first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one; the kind follows a number, such as ".heic" or "without a caption"."""
        self._counts[kind] += 1
        self._first.setdefault(kind, shown(name))

    def add_file(self, name: str) -> None:
        """Count a file by its ending."""
        end = PurePosixPath(name).suffix.lower()
        self.add(end if 0 < len(end) <= _LONGEST else "without an ending", name)

    def count(self, kind: str) -> int:
        """How many there are of a kind."""
        return self._counts[kind]

    def extend(self, other: "LeftOut") -> None:
        """Count what another one has as well."""
        self._counts.update(other._counts)
        self._first = other._first | self._first

    def __str__(self) -> str:
        """As `4 .heic (the first a.heic), 1 hidden (.b.png)`; empty if there are none."""
        return ", ".join(
            f"{count} {kind} ({'the first ' if count > 1 else ''}{self._first[kind]})"
            for kind, count in self._counts.most_common()
        )

    def tell(self) -> None:
        """Print them in one line, if there are any."""
        if self._counts:
            others = "other" if self._counts.total() == 1 else "others"
            print(f"listing  {self._counts.total()} {others} left out: {self}", flush=True)


def is_hidden(name: str) -> bool:
    """Whether a file is no data, but a leftover of a program."""
    return _HIDDEN.search(name) is not None


def shown(name: str) -> str:
    """A name as text that can be printed, whatever bytes it has."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
