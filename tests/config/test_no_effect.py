"""Settings that do nothing are told, and only these."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import load
from pipeline.config import Config
from pipeline.config.no_effect import OFF, no_effect

ROOT = Path(__file__).parents[2]


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., list[str]]:
    (tmp_path / "none.yaml").write_text("")

    def told(*flags: str) -> list[str]:
        flags = (f"--config={tmp_path}/none.yaml", *(f"--distill.{flag}" for flag in flags))
        return no_effect(load(flags).distill)

    return told


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_no_recipe_has_any(path: Path) -> None:
    assert no_effect(load([f"--config={path}"]).distill) == []


@pytest.mark.parametrize(("name", "switches"), OFF)
def test_each_is_a_setting_and_so_is_what_turns_it_off(name: str, switches: dict) -> None:
    for each in (name, *switches):
        part: object = Config().distill
        for word in each.split("."):
            part = getattr(part, word)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["gan.student_weight=0.1"], "gan.student_weight has no effect at distill.gan.real null"),
        (
            ["critic.lora.alpha=4"],
            "critic.lora.alpha has no effect at distill.critic.lora.rank null",
        ),
        (["student.renoise=false"], "student.renoise has no effect at distill.student.times null"),
        (
            ["regression_steps=0", "regression.lr=0.1"],
            "regression.lr has no effect at distill.regr",
        ),
        (["scoring.batch_size=7"], "scoring.batch_size has no effect at distill.scoring.count 0"),
        (
            ["draws=shared", "gan.real=data", "gan.range=[0.1, 0.2]"],
            'gan.range has no effect at distill.draws "shared"',
        ),
        (
            ["regression_steps=0", "regression.weight=0", "regression.batch_size=64"],
            "regression.batch_size has no effect at distill.regression_steps 0 and distill.regres",
        ),
    ],
)
def test_what_does_nothing_is_told_with_what_turns_it_off(
    flags: list[str], told: str, given: Callable[..., list[str]]
) -> None:
    (line,) = given(*flags)
    assert line.startswith(f"distill.{told}")
    assert given(*flags[:-1]) == []


def test_what_has_an_effect_is_not_told(given: Callable[..., list[str]]) -> None:
    assert given("gan.real=data", "gan.student_weight=0.1", "critic.lora.rank=4") == []
    off = ["regression_steps=0", "regression.weight=0", "regression.batch_size=64"]
    assert given(*off, "gan.real=pairs") == []
