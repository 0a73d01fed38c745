"""Icons drawn with captions, from a package in the layout of the real one."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Config
from pipeline.data.icons.drawing import BACKGROUNDS, LOOKS, Look, caption
from pipeline.data.icons.names import CLEAR
from pipeline.data.icons.package import STYLES, open_package
from pipeline.stages.icons import held_out, make_icons
from pipeline.utils.errors import UserError
from tests.fixtures.icons import configured, save_package


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = configured(tmp_path_factory.mktemp("icons") / "run")
    make_icons(config)
    return config


def rows(config: Config, part: str) -> list[dict[str, str]]:
    with (Path(config.icons.output) / part / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def image(config: Config, part: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(Path(config.icons.output) / part / name), np.int16)


def test_every_combination_is_there_once_seen_or_held_out(drawn):
    seen, kept = rows(drawn, "train"), rows(drawn, "held-out")
    keys = [(r["name"], r["style"], r["background"], r["size"], r["mirrored"]) for r in seen + kept]
    assert len(set(keys)) == len(keys) == 6 * (16 + 8 + 16)
    assert {r["name"] for r in kept} == {r["name"] for r in seen} == {"red apple", "star", "key"}
    for column in ("style", "background", "size"):
        for name in ("red apple", "star", "key"):
            values = {r[column] for r in seen if r["name"] == name}
            assert values == {r[column] for r in seen + kept}, "nothing of it is new, but together"
    assert all(held_out(name).isdisjoint(LOOKS[:1]) for name in CLEAR)


def test_a_drawing_shows_what_its_caption_says(drawn):
    for part in ("train", "held-out"):
        for row in rows(drawn, part):
            pixels = image(drawn, part, row["file_name"])
            assert pixels.shape == (16, 16, 3)
            shown = {tuple(each) for each in pixels.reshape(-1, 3)} & {*BACKGROUNDS.values()}
            assert shown == {BACKGROUNDS[row["background"]]}
            foreground = np.abs(pixels - np.array(BACKGROUNDS[row["background"]])).sum(2) > 60
            high = int(foreground.any(1).sum())
            assert (high >= 13) == (row["size"] == "large"), row
            if row["name"] == "red apple":
                left, right = foreground[:, :8].sum(), foreground[:, 8:].sum()
                assert (left < right) == (row["mirrored"] == "mirrored")
            assert row["licence"] == "MIT" and row["author"] and row["url"]


def test_captions_name_what_is_not_plain():
    assert caption("red-heart", "noto", LOOKS[0]) == "a red heart, noto style"
    look = Look("blue", "large", True)
    assert caption("airplane", "fluent", look) == "a mirrored airplane, fluent style, on blue"
    assert caption("airplane", "fluent", LOOKS[0]).startswith("an airplane")
    said = [caption(name, style, look) for name in CLEAR for style in STYLES for look in LOOKS]
    assert len(set(said)) == len(said)


def test_a_second_run_draws_nothing_and_other_icons_are_refused(drawn, capsys):
    make_icons(drawn)
    assert "already" in capsys.readouterr().out
    other = drawn.model_copy(update={"icons": drawn.icons.model_copy(update={"size": 32})})
    with pytest.raises(UserError, match=r"icons\.output"):
        make_icons(other)


@pytest.mark.parametrize(
    ("made", "setting"),
    [
        ({"licence": "GPL-3.0"}, r"icons\.package.*GPL-3\.0"),
        ({"without": "collections.json"}, r"icons\.package.*collections"),
        ({"package": "@iconify/json@2.0.1"}, r"is no @iconify/json@2\.2.* \(it is .*@2\.0\.1\)"),
        ({"without": "json/noto.json"}, r"icons\.package.*noto"),
    ],
)
def test_another_package_is_one_line(tmp_path, made, setting):
    config = configured(tmp_path / "run")
    save_package(tmp_path / "icons.tgz", **made)
    with pytest.raises(UserError, match=setting):
        make_icons(config)
    assert not Path(config.icons.output).exists()


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"icons\.package.*npm"):
        open_package(None)


def test_more_names_than_there_are_is_one_line(tmp_path):
    config = configured(
        tmp_path / "run", icons={"names": 5, "package": str(tmp_path / "icons.tgz")}
    )
    with pytest.raises(UserError, match=r"icons\.names"):
        make_icons(config)
