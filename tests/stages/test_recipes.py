"""Every recipe in configs/ says on what it runs, and that is what the doctor foresees."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import load
from pipeline.config import settings_yaml
from pipeline.stages import recipes
from pipeline.stages.plan import Plan
from pipeline.stages.recipes import CARDS, Shipped, list_recipes, shipped
from pipeline.stages.to_do import encodes
from pipeline.training.memory import GIB

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))
SLOW = ("qwen-image-4-step", "wan22-4-step", "sdxl", "sdxl-4-step", "sdxl-lora")
"""To count; tests/training/test_large_recipes.py counts two of them all the same."""
HARDWARE = re.compile(
    r"(?P<gpus>\d+) GPUs? of (?P<card>\d+) GB: (?P<held>[\d.]+) GiB on each"
    r"(?:, with(?P<flags>(?: +--[\w.]+ +\S+)+))?"
)
Statement = dict[str, str]


def text_of(name: str) -> str:
    return (ROOT / "configs" / f"{name}.yaml").read_text()


def statements(name: str) -> list[Statement]:
    """GPUs, their GB, what is held and under which flags, as the comment of a file has them."""
    lines = (line for line in text_of(name).splitlines() if line.startswith("#"))
    comment = " ".join(line.lstrip("# ").rstrip("\\") for line in lines)
    return [found.groupdict("") for found in HARDWARE.finditer(comment)]


def recipe(name: str, flags: str = "") -> Shipped:
    plain = ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--run", "/nowhere"]
    return Shipped(name, load([*plain, *shlex.split(flags)]).model_dump(mode="json"))


def check(stated: Statement, found: Shipped) -> None:
    workers, card = found.config.distill.workers, int(stated["card"])
    assert workers.gpus == 1 and workers.min == int(stated["gpus"]) <= workers.max
    assert found.bytes / GIB == pytest.approx(float(stated["held"]), rel=0.02)
    assert found.fits(card)
    assert stated["flags"] or card == 24 or not found.fits(card_below(card)), "a smaller one does"


def card_below(card: int) -> int:
    return max(each for each in CARDS if each < card)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_states_its_hardware_and_why_its_workers_are_no_more(name: str) -> None:
    text, workers = text_of(name), recipe(name).config.distill.workers
    (told,) = re.findall(r"^# Hardware: (.*)", text, re.MULTILINE)
    if not workers.gpus:
        assert told == f"{workers.max} CPU cores, no GPU." and not statements(name)
    else:
        first, *others = statements(name)
        assert told.startswith(f"{first['gpus']} GPU of {first['card']} GB: ")
        assert not first["flags"] and all(each["flags"] for each in others)
    assert re.search(r"^  workers: \{.*max: \d+.*\}  # max: \w", text, re.MULTILINE)
    assert workers.max == recipe(name).config.distill.lanes


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.prove] * (each in SLOW)) for each in NAMES]
)
def test_it_fits_what_it_states_and_the_table_says_so(name: str) -> None:
    """With the doctor's arithmetic, on the teacher's real shapes."""
    found = recipe(name)
    for stated in statements(name)[:1]:
        check(stated, found)
    assert f"{found.row}\n" in (ROOT / "docs" / "scale.md").read_text()


@pytest.mark.prove
@pytest.mark.parametrize(
    ("name", "stated"), [(name, each) for name in NAMES for each in statements(name)[1:]]
)
def test_it_fits_what_it_states_under_flags(name: str, stated: Statement) -> None:
    found = recipe(name, stated["flags"])
    assert found.config.distill.sharded
    check(stated, found)


@pytest.mark.parametrize("name", NAMES)
def test_in_an_empty_folder_what_a_recipe_needs_is_missing_by_its_setting(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Shipped(name, settings_yaml.read(str(ROOT / "configs" / f"{name}.yaml")))
    given = {
        f"{branch}.{key}"
        for branch in ("teacher", "encode")
        for key, value in found.settings.get(branch, {}).items()
        if isinstance(value, str) and value.startswith(("models/", "data/"))
    }
    unread = set() if encodes(found.config.distill) else {"encode.source"}
    assert {each.partition(":")[0] for each in Plan(found.config).problems} == given - unread


def test_the_table_has_every_recipe_those_of_a_teacher_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(shipped())
    assert sorted(each.name for each in found) == NAMES
    teachers = [each.teacher for each in found]
    assert teachers == sorted(teachers)
    small = [each for each in found if each.name in ("digits", "gaussian")]
    monkeypatch.setattr(recipes, "shipped", lambda: iter(small))
    list_recipes()
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert rows == [each.row for each in small]
    assert {row.count("|") for row in (head, line, *rows)} == {11}


def test_configs_of_an_installed_package_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert settings_yaml.shipped() == ROOT / "configs"
    monkeypatch.setattr(settings_yaml, "__file__", str(tmp_path / "config" / "settings_yaml.py"))
    (tmp_path / "configs").mkdir()
    assert settings_yaml.shipped() == tmp_path / "configs"
