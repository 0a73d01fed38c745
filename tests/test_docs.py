"""The pages of docs/: all stand in the navigation, their links and commands are valid."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.cli import load, options
from pipeline.cli.jobs import JOBS
from pipeline.config import settings_yaml
from pipeline.training.peaks import USUAL, peak

ROOT = Path(__file__).parents[1]
ENTRIES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*ENTRIES, *sorted((ROOT / "docs").glob("**/*.md"))]


def inner(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from inner(token.children or [])


@cache
def parsed(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub names headings: small letters, no punctuation, hyphens for blanks, then numbers."""
    found: dict[str, int] = {}
    tokens = parsed(page)
    for opening, text in zip(tokens, tokens[1:], strict=False):
        if opening.type == "heading_open":
            words = "".join(each.content for each in text.children or [])
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found[name] = found.get(name, -1) + 1
            if found[name]:
                found[f"{name}-{found[name]}"] = 0
    return set(found)


def targets(page: Path) -> Iterator[str]:
    for token in inner(parsed(page)):
        target = token.attrs.get("href", token.attrs.get("src"))
        if isinstance(target, str) and not re.match(r"[a-z]+:", target):
            yield unquote(target)


def missing(page: Path) -> Iterator[str]:
    """Links of a page whose file or anchor is not there."""
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


def listed(entries: list[dict[str, object]]) -> Iterator[str]:
    for entry in entries:
        for place in entry.values():
            if isinstance(place, list):
                yield from listed(place)
            else:
                yield str(place)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert list(missing(page)) == []


def test_every_page_stands_once_in_the_navigation():
    navigation = listed(yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"])
    assert sorted(navigation) == sorted(str(page.relative_to(ROOT)) for page in PAGES)


RECITE = """
PATH=/nowhere
command_not_found_handle() { printf '%s\\t' "$@"; echo; }
function .venv/bin/python { command_not_found_handle "$@"; }
"""
"""Bash that tells the words of a command instead of running it."""


def commands(script: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Job and arguments of every command of a script that runs one, as bash reads it."""
    bash = ["/bin/bash", "-c", RECITE + script]
    told = subprocess.run(bash, cwd=folder, capture_output=True, text=True, timeout=60)
    assert not told.stderr
    for line in told.stdout.splitlines():
        words = line.rstrip("\t").split("\t")
        for place, word in enumerate(words):
            if found := re.fullmatch(r"jobs/(\w+)\.py", word):
                yield found[1], words[place + 1 :]


def merged(tree: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Settings with others over them, branch by branch."""
    both = {
        name: merged(tree[name], value)
        for name, value in more.items()
        if isinstance(value, dict) and isinstance(tree.get(name), dict)
    }
    return tree | more | both


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "new-loss.md"], ids=lambda page: page.name
)
def test_commands_are_valid(page, tmp_path, monkeypatch):
    """With the settings file that a page has its reader copy from a recipe, and change.

    A distillation leaves its settings for the commands after it.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "settings", cache(options.settings))
    monkeypatch.delenv("DMD_CONFIG", raising=False)
    own, settings = None, {}
    for token in parsed(page):
        if copied := re.search(r"`cp (configs/\S+) (\S+)`", token.content):
            own, settings = tmp_path / copied[2], settings_yaml.read(str(ROOT / copied[1]))
        if token.type == "fence" and token.info == "yaml" and own:
            settings = merged(settings, settings_yaml.read_text(token.content.encode(), page.name))
            own.write_text(settings_yaml.dump(settings))
        if token.type == "fence" and token.info == "bash":
            for job, arguments in commands(token.content, tmp_path):
                given, _ = options.parse(JOBS[job], arguments)
                named = given[options.CONFIG] or "configs/digits.yaml"
                if named.startswith("configs/") or own:
                    config = load(arguments, JOBS[job])
                    if job == "distill" and (run := Path(config.distill.output)).is_relative_to(
                        tmp_path
                    ):
                        run.mkdir(parents=True, exist_ok=True)
                        kept = settings_yaml.dump(config.model_dump(mode="json"))
                        (run / "config.yaml").write_text(kept)


def forecasts() -> Iterator[Any]:
    """Of the tables of hours: recipe, TFLOP a step, steps, hours on 1, 8 and 64 GPUs, price."""
    row = r"^\| `([\w-]+)` " + r"\| ([\d.,]+)(?: h)? " * 6 + r"\|$"
    for page in PAGES:
        for name, *figures in re.findall(row, page.read_text(), re.MULTILINE):
            yield pytest.param(name, *(float(each.replace(",", "")) for each in figures), id=name)


@pytest.mark.parametrize(
    ("name", "work", "steps", "on_1", "on_8", "on_64", "price"), list(forecasts())
)
def test_hours_and_prices_are_what_their_formula_says(name, work, steps, on_1, on_8, on_64, price):
    """As the pages give it: at 40% of an H100's peak, for 2.50 an hour."""
    assert steps == load(["--config", f"configs/{name}.yaml"]).distill.steps
    whole = work * steps / (USUAL * peak("H100", "bf16")) / 3600
    told = [on_1, on_8 * 8, on_64 * 64, price / 2.5]
    assert told == pytest.approx([whole] * 4, rel=0.05)
