"""All families keep the laws of `Conformance`."""

from pipeline.models.families import FAMILIES
from tests.families.builders import BUILDERS
from tests.families.conformance import Conformance


def test_every_family_has_a_builder():
    ours = {name for name, each in FAMILIES.items() if each.__module__.startswith("pipeline.")}
    assert {builder.family for builder in BUILDERS.values()} == ours


class TestFamilies(Conformance):
    builders = BUILDERS
