"""The pages of docs/: each stands in the navigation, and what they link to is there."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

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
