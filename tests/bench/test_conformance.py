"""The table of docs/conformance.md: whole, within its bars, and never made of a law that broke."""

from typing import Any

import conformance
import pytest
from conformance import PAGE, Table

from pipeline.models.families import FAMILIES
from tests.families.builders import BUILDERS
from tests.families.figures import LAWS

OURS = {name for name, each in FAMILIES.items() if each.__module__.startswith("pipeline.")}


def written() -> dict[str, list[str]]:
    """Of the page: model -> its family and its cells."""
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {model: [family, *rest] for family, model, *rest in cells if family in OURS}


def test_the_page_has_every_family_and_model_and_says_how_it_was_made() -> None:
    page, rows = PAGE.read_text(), written()
    assert {family for family, *_ in rows.values()} == OURS
    assert {model: row[0] for model, row in rows.items()} == {
        k: v.family for k, v in BUILDERS.items()
    }
    assert "`python bench/conformance.py` made this page on 20" in page
    assert all(f"{name} " in page for name in conformance.LIBRARIES)
    header = page[page.index("| family") :].splitlines()[0]
    assert (
        header
        == "| " + " | ".join(["family", "tiny model", *(e.title for e in LAWS.values())]) + " |"
    )


def test_figures_on_the_page_are_within_their_bars_and_empty_cells_have_a_reason() -> None:
    page = PAGE.read_text()
    for model, (_, *cells) in written().items():
        for law, cell in zip(LAWS.values(), cells, strict=True):
            if cell.startswith("-"):
                assert f"\n{cell[3:-1]}. " in page, (model, law.title)
            else:
                figure = float(cell.removesuffix("%")) / (100 if cell.endswith("%") else 1)
                assert law.kept(figure), (model, law.title)


class Report:
    """What pytest says of a test."""

    when = "call"

    def __init__(self, nodeid: str, failed: bool = False, **found: float | str) -> None:
        self.nodeid, self.failed, self.user_properties = nodeid, failed, list(found.items())


def table(*reports: Any) -> Table:
    """Of two models and all laws, after these reports."""
    builders = {name: BUILDERS[name] for name in ("sd1", "gaussian")}
    models = {"a": "sd1", "b": "sd1", "c": "gaussian"}
    made = Table(frozenset({"sd", "gaussian"}), LAWS, builders, models=models)
    for report in reports:
        made.pytest_runtest_logreport(report)
    return made


WHOLE = {law: float(each.bar) for law, each in LAWS.items()}
GAUSSIAN = Report("c", trained=1.0, memory=0.01)


def test_a_cell_is_the_worst_of_its_figures_or_the_reason_why_there_is_none() -> None:
    first = Report("a", **{**WHOLE, "x0": 1e-7, "sizes": "one size alone"})
    made = table(first, Report("b", x0=3e-7, trained=0.95), GAUSSIAN)
    assert not made.problems() and made.rows() == ["sd1", "gaussian"]
    assert made.cell("sd1", "x0") == 3e-7 and made.cell("sd1", "trained") == 0.9
    rows = conformance.lines(made)
    assert "| sd | sd1 | 3e-07 |" in rows[3] and "- (1)" in rows[3]
    assert "1. one size alone" in rows


@pytest.mark.parametrize("law", LAWS)
def test_an_empty_cell_without_a_reason_is_a_problem(law: str) -> None:
    some = {name: figure for name, figure in WHOLE.items() if name != law}
    assert any(law in line for line in table(Report("a", **some), GAUSSIAN).problems())


def test_a_broken_law_and_a_family_without_a_model_are_problems() -> None:
    broken = table(Report("a", failed=True, **WHOLE), GAUSSIAN)
    assert broken.problems() == ["a failed"]
    made = table(Report("a", **WHOLE), GAUSSIAN)
    made.only = frozenset()
    named = {line.split()[0] for line in made.problems()}
    assert named == {*FAMILIES} - {"sd", "gaussian"}
