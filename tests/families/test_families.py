"""All families keep the laws of `Conformance`."""

from pathlib import Path

from pipeline.models.families import FAMILIES
from tests.families.builders import BUILDERS
from tests.families.conformance import Conformance


def test_every_family_has_a_builder():
    ours = {name for name, each in FAMILIES.items() if each.__module__.startswith("pipeline.")}
    assert {builder.family for builder in BUILDERS.values()} == ours


def test_the_table_of_teachers_has_their_pipelines_and_tiny_models():
    lines = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text().splitlines()
    rows = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    for builder in BUILDERS.values():
        row = rows[builder.family]
        assert all(f"`{each}`" in row for each in FAMILIES[builder.family].pipelines)
    assert all(f"`{name}`" in rows[each.family] for name, each in BUILDERS.items())


class TestFamilies(Conformance):
    builders = BUILDERS
