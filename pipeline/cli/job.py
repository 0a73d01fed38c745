"""A job, as the command line knows it before anything of it is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name

from pipeline.config import Config

Call = Callable[[Config], object]


@dataclass(frozen=True)
class Job:
    """What to do with the settings, and what the help says of it.

    Args:
        call: A function, or its place as "module:name".
        help: One line.
        reads: Branches of settings, or single ones, that the help explains; its own first.
        writes: Branches whose `output` the job writes: what would be lost with it is refused, and
            a refused job leaves none of them behind empty.
        instead: Name of a flag -> what it does instead of the job.
        then: As `call`, after it.
        words: Name of a setting that takes the arguments without a name; none by default.
        examples: Its arguments, for the help.
    """

    call: Call | str
    help: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    instead: Mapping[str, Job] = field(default_factory=dict)
    then: Call | str | None = None
    words: str = ""
    examples: tuple[str, ...] = ()

    def functions(self) -> list[Call]:
        """What is called, one after the other; imports it."""
        calls = [each for each in (self.call, self.then) if each]
        return [resolve_name(each) if isinstance(each, str) else each for each in calls]
