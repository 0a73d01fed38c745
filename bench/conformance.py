#!/usr/bin/env python3
"""Every teacher family by every law, on its tiny model: the table of docs/conformance.md.

    python bench/conformance.py [--only FAMILY ...]

Runs the tests of tests/families/test_families.py that have a figure. Each test measures it and
holds it to its bar; here it is written down. All of them take ten minutes on two cores. The command
fails, and writes nothing, if a law is broken, if a family has no tiny model, or if a cell would be
empty without a reason. With --only it prints the rows of some families and writes nothing.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pytest
import torch
from prove import ROOT

from pipeline.models.families import FAMILIES

PAGE = ROOT / "docs" / "conformance.md"
LIBRARIES = ("torch", "diffusers", "transformers", "peft")
INTRODUCTION = """# Conformance

`python bench/conformance.py` made this page on {today}, on a CPU, with {libraries}.

Each row is a tiny model of random weights in the real layout, made by diffusers' own classes
(`tests/families/builders/`). Each cell is the worst figure of its tests, and within its bar: the
command fails and writes nothing if a law is broken. Released weights were not run.

- **x0**: at every step of diffusers' own pipeline, against what the pipeline makes of its
  network's output; at the model's own size and at two that are no squares. Differences here are
  relative to the spread of all values and the value itself.
- **Last latents**: 4 and 20 steps of the folder's solver against the stock pipeline, with the
  pipeline's own guidance. Of DiT it is the images, of models on pixels x0 before it is clamped.
- **DMD steps with GAN**: the share of tensors of student and critic that they change, all of them
  finite.
- **Student's images**: of students of one step and of several, saved, and opened by diffusers in
  a process that cannot import this package; the largest difference of values from 0 to 1.
- **LoRA**: the student's file, loaded into the stock pipeline of its teacher: keys without an
  adapter there, or the other way round; by how much it changes the latents; how far these are
  from our student's, both relative to the largest value.
- **Memory**: weights, gradients, moments, activations and encoders as foreseen, against the
  tensors that are there; the share that is furthest off.

"""

Figure = float | str
"""What was measured, or why there is nothing to measure."""


@dataclass
class Table:
    """A plugin of pytest that takes the figures of the tests which have some.

    Args:
        only: Families to measure; none: all.

    Attributes:
        laws: Name -> a column: its title, bar and format.
        builders: Name -> the tiny model of a row.
        cells: (model, law) -> all figures, one for each case of a test.
        models: Test -> its model.
        broken: Tests that failed.
    """

    only: frozenset[str] = frozenset()
    laws: Mapping[str, Any] = field(default_factory=dict)
    builders: Mapping[str, Any] = field(default_factory=dict)
    cells: dict[tuple[str, str], list[Figure]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Keep the tests that have figures, of the families that are asked for."""
        chosen = []
        for item in items:
            if "figures" in getattr(item, "fixturenames", ()):
                self.laws, self.builders = item.cls.laws, item.cls.builders
                name = item.callspec.params["name"]
                if not self.only or self.builders[name].family in self.only:
                    self.models[item.nodeid] = name
                    chosen.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test found."""
        if report.failed:
            self.broken.append(report.nodeid)
        if report.when == "call":
            for law, found in report.user_properties:
                assert isinstance(found, float | str)
                self.cells.setdefault((self.models[report.nodeid], law), []).append(found)

    def rows(self) -> list[str]:
        """Names of the models, in the order of the builders."""
        measured = {*self.models.values()}
        return [name for name in self.builders if name in measured]

    def cell(self, model: str, law: str) -> Figure | None:
        """The worst figure, or else the reason why there is none; None without either."""
        found = self.cells.get((model, law), [])
        figures = [each for each in found if isinstance(each, float)]
        if figures:
            return min(figures) if self.laws[law].at_least else max(figures)
        if found:
            return found[0]
        return None if self.builders[model].make else "diffusers has no pipeline of it"

    def problems(self) -> list[str]:
        """Why this is no table to publish."""
        lines = [f"{test} failed" for test in self.broken]
        for model in self.rows():
            missing = [law for law in self.laws if self.cell(model, law) is None]
            lines += [f"{model} has no figure and no reason: {law}" for law in missing]
        known = {each.family for each in self.builders.values()}
        for family in sorted((self.only or {*FAMILIES}) - known):
            lines.append(f"{family} has no tiny model in tests/families/builders")
        return lines


def lines(table: Table) -> list[str]:
    """The table in Markdown, and the reasons of its empty cells."""
    reasons: list[str] = []

    def shown(model: str, law: str) -> str:
        found = table.cell(model, law)
        if isinstance(found, float):
            return f"{found:{table.laws[law].shown}}"
        reason = str(found)
        if reason not in reasons:
            reasons.append(reason)
        return f"- ({reasons.index(reason) + 1})"

    laws = table.laws.values()
    rows = [
        ["family", "tiny model", *(law.title for law in laws)],
        ["---"] * (2 + len(table.laws)),
        ["", "*bar*", *(law.limit for law in laws)],
        *(
            [table.builders[model].family, model, *(shown(model, law) for law in table.laws)]
            for model in table.rows()
        ),
    ]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return [*(f"| {' | '.join(row)} |" for row in rows), "", *notes]


def page(table: Iterable[str]) -> str:
    """docs/conformance.md."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    return INTRODUCTION.format(today=today, libraries=libraries) + "\n".join(table).rstrip() + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="FAMILY")
    table = Table(frozenset(parser.parse_args().only))
    torch.set_num_threads(1)  # as in the tests, and in the process that opens students
    tests = str(ROOT / "tests" / "families" / "test_families.py")
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:warnings", tests], plugins=[table])
    found = lines(table)
    print(*found, sep="\n")
    if problems := table.problems():
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    if not table.only:
        PAGE.write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
