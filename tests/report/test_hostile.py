"""A run's folder is data: whatever is in it, the page is made, and tells what it leaves out."""

import io
import json
import os
import shutil
import struct
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.config import Config, settings_yaml
from pipeline.report import page
from pipeline.report.source import FoundRun
from pipeline.utils.image_grid import save_grid
from tests.report.run_folder import EVENTS, FIGURES, line
from tests.report.test_page import LATER, Page, read, shown

EVIL = (
    "</script></pre>'\"><img src=javascript:a() onerror=b()><a href=javascript:c()>`\n# h\x00\x1b"
)
SECRET = "http://user:s3cr3t@host/"


def png(layout: object = None, size: tuple[int, int] = (9, 9), kind: str = "PNG") -> bytes:
    info, file = PngInfo(), io.BytesIO()
    if layout is not None:
        info.add_itxt("grid", layout if isinstance(layout, str) else json.dumps(layout))
    Image.new("RGB", size).save(file, kind, **({"pnginfo": info} if kind == "PNG" else {}))
    return file.getvalue()


def header(width: int, height: int) -> bytes:
    """A PNG of so many pixels, in 57 bytes."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in (chunk, data, b"IEND")
    )


DEEP = 10_000 * "[" + 10_000 * "]"
MANY = json.dumps({"step": 1, "x": list(range(200_000))})
LONG = '{"step": 3, "x": "' + 2**21 * "x" + '"}\n'
OBJECT = (DEEP, 3000 * '{"a":', "[]", "NaN", b"\xff{", '{"a": "\\ud800"}', MANY)
LINES = (f"{DEEP}\n", LONG, '{"step": "x"}\n' + 5 * "null\n")
PICTURE = (
    *(header(30_000, 30_000), header(2**31, 1), png()[:45]),
    *(png(kind=kind) for kind in ("GIF", "TIFF")),
)
BAD: dict[str, tuple[str | bytes, ...]] = {
    "run.json": OBJECT,
    "state.json": OBJECT,
    "checkpoints/0000005-abcd.score": OBJECT,
    "../evaluation.json": OBJECT,
    "config.yaml": (f"run: {DEEP}", "run: &a [*a]", "run: " + 5000 * "9", b"\xff"),
    "metrics.jsonl": LINES,
    "events.jsonl": LINES,
    "skipped.jsonl": LINES,
    "samples/step-0000005.png": PICTURE,
    "../failures.png": PICTURE,
}
"""File -> contents that cannot be read at all."""


def seen(folder: Path, name: str) -> FoundRun | page.View:
    """What a page is made of; of a picture, with what becomes of it."""
    run = read(folder)
    return page.view(run, LATER) if name.endswith("png") else run


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_told_in_a_line_and_costs_itself_alone(
    folder: Path, name: str
) -> None:
    file = folder / "distill" / name
    file.unlink()
    without = seen(folder, name)
    for content in BAD[name]:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        found, began = seen(folder, name), time.monotonic()
        (trouble,) = found.troubles
        assert file.name in trouble and len(trouble) < 400 and "\n" not in trouble
        assert replace(found, troubles=[]) == without
        assert time.monotonic() - began < 5
    assert file.name in shown(folder).text


def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A page may be sent to others: it shows nothing of this machine that is not the run's."""
    secret, file = tmp_path / "secret.json", folder / "distill" / "run.json"
    secret.write_text(json.dumps({"token": "s3cr3t"}))
    for name in ("distill/run.json", "distill/config.yaml", "evaluation.json", "evaluation.png"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
    found = shown(folder)
    assert "s3cr3t" not in found.text and found.text.count("a link out of its folder") == 4
    file.unlink()
    file.symlink_to("copy.json")
    (folder / "distill" / "copy.json").write_text("{}")
    assert len(read(folder).troubles) == 3, "a link within it is followed"


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.png"])
def test_a_file_without_end_is_not_read(folder: Path, name: str) -> None:
    file = folder / "distill" / name if name.endswith("l") else folder / name
    os.truncate(file, 2**40)
    (trouble,) = read(folder).troubles
    assert name in trouble
    file.unlink()
    file.symlink_to("/dev/zero")
    assert not read(folder).troubles, "it is no file"


LAYOUT = {"rows": {"a": 1}, "columns": [], "size": [1, 1], "scale": 1, "at": [0, 0]}
LAYOUTS = (
    *({**LAYOUT, "rows": rows} for rows in ({"a": 999_999}, {"a": -1}, {"a": "1"}, [1], {"a": {}})),
    *({**LAYOUT, "size": size} for size in ([0, 1], [9, 10], [10**400, 1], 1, [1.5, 1], None)),
    *({**LAYOUT, "scale": scale} for scale in (0, -1, 10**9, "x", None, True)),
    *({**LAYOUT, "at": at} for at in ([-1, 0], [9, 0], [[], 0])),
    *({**LAYOUT, "columns": columns} for columns in ("x", [1], [[[]]])),
    *(DEEP, "NaN", "", {}),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_that_says_of_itself_what_is_not_so_is_shown_as_it_is(layout: object) -> None:
    found = page.figure(png(layout), "x")
    assert found.plain or [len(each.strips) for each in found.blocks] == [1]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([EVIL, SECRET, "teacher", "real", "start", 10**15, -(2**63), 5e-324, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def spoilt(tree: Any, draw: Any) -> Any:
    """The tree with anything in place of some of its values."""
    if draw(st.integers(0, 5)) == 0:
        return draw(anything)
    if isinstance(tree, dict):
        return {name: spoilt(each, draw) for name, each in tree.items()}
    return [spoilt(each, draw) for each in tree] if isinstance(tree, list) else tree


@given(st.data())
@settings(max_examples=12, deadline=None, database=None)
def test_any_values_in_any_file_make_a_sound_page(made: Path, data: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(made, Path(place) / "run")
        for pictures in folder.rglob("*.png"):
            pictures.unlink()

        def spoil(name: str, *trees: Any) -> None:
            texts = (json.dumps(spoilt(tree, data.draw)) for tree in trees)
            (folder / name).write_text("\n".join(texts) + "\n")

        distill = {"steps": 10, "regression_steps": 4, "burn_in_steps": 2}
        spoil("evaluation.json", FIGURES)
        spoil("distill/metrics.jsonl", *(line(step, gan=0.1) for step in range(4)))
        spoil("distill/events.jsonl", *EVENTS)
        spoil("distill/skipped.jsonl", {"step": 7})
        spoil("distill/state.json", {"step": 10})
        spoil("distill/run.json", {"seed": 0, "distill": distill})
        spoil("distill/config.yaml", {"run": "/x", "distill": distill})
        spoil("distill/checkpoints/0000005-abcd.score", {"fd_teacher": 1.0, "n": 9, "floor": 0.5})
        check(shown(folder), read(folder))
        check(shown(folder, made), read(folder))


def check(found: Page, run: FoundRun) -> None:
    """Nothing in a page runs, loads or leads anywhere but what is the report's own."""
    assert len(found.all("script")) == 1 and len(found.all("html")) == 1
    assert {tag for tag, _ in found.tags} <= TAGS, "of the templates"
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "s3cr3t" not in found.text
    names = {text.split()[0] for text in run.troubles}
    assert len(names) == len(run.troubles), "one line a file"


TAGS = set(
    "html head meta link title style body script header main nav section footer h1 h2 h3 p a ul ol "
    "li dl dt dd div span b i em wbr time code pre figure img table caption thead tbody tr th td "
    "details summary button input output svg line path".split()
)


def test_evil_texts_stay_texts_everywhere(
    folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evil(tree: Any) -> Any:
        if isinstance(tree, dict):
            kept = {name: evil(each) for name, each in tree.items()}
            kinds = {type(each) for each in kept.values()}
            same = dict.fromkeys([EVIL], next(iter(kept.values()), EVIL))
            return kept | (same if len(kinds) < 2 else {EVIL: EVIL, f"{EVIL}2": 1.5})
        if isinstance(tree, list):
            return [evil(each) for each in tree]
        return EVIL if tree in ("abacus", "f00", "a worker died", "a net") else tree

    output = folder / "distill"
    for file in (*output.glob("*.json*"), folder / "evaluation.json", *output.rglob("*.score")):
        trees = map(json.loads, file.read_text().splitlines())
        file.write_text("\n".join(json.dumps(evil(each)) for each in trees) + "\n")
    config = output / "config.yaml"
    config.write_text(settings_yaml.dump(evil(settings_yaml.read(str(config)))))
    for name in ("evaluation.png", "distill/samples/step-0000005.png"):
        save_grid({EVIL: torch.zeros(2, 1, 8, 8)}, folder / name, columns=[EVIL, EVIL])
    renamed = folder.rename(folder.with_name(os.fsdecode(b"\xff") + EVIL.replace("/", "-")[:50]))
    for folders in ((renamed,), (renamed, made)):
        run = read(renamed)
        assert not run.troubles
        check(shown(*folders), run)
    monkeypatch.chdir(renamed)
    assert page.report(Config(run=".")).stat().st_size > 1000


def test_credentials_of_older_settings_are_not_shown(folder: Path) -> None:
    for name in ("distill/config.yaml", "distill/run.json"):
        (folder / name).write_text(f'{{"s3": {{"endpoint": "{SECRET}"}}}}')
    assert "s3cr3t" not in shown(folder).text and "***@host" in shown(folder).text
