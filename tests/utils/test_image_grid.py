"""A grid shows every pixel where it should."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.utils.errors import UserError
from pipeline.utils.image_grid import read_grid, row_of, save_grid


def test_rows_and_columns_are_where_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "new" / "grid.png"
    top = torch.stack([torch.full((3, 2, 2), level) for level in (-1.0, 0.0, 1.0)])
    bottom = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    save_grid({"a": top, "b": bottom}, path, scale=10)
    page = Image.open(path).convert("RGB")
    x, y, step = page.width - 16 - 20 // 2, 16 + 20 // 2, 24
    grey = [page.getpixel((x - back * step, y)) for back in (2, 1, 0)]
    assert grey == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    assert page.getpixel((x - 2 * step, y + step)) == (255, 0, 0)
    assert page.getpixel((x, y + step)) == (255, 255, 255)
    assert page.height == 16 + 2 * 24 - 4 + 16


def test_one_colour_is_grey_and_outliers_are_clamped(tmp_path: Path) -> None:
    save_grid({"x": torch.full((1, 1, 8, 8), 7.0)}, tmp_path / "a.png")
    save_grid({"x": torch.full((1, 3, 8, 8), 1.0)}, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_long_caption_is_drawn_as_far_as_its_row_is_high_and_stored_whole(tmp_path: Path) -> None:
    images, long = torch.full((2, 1, 8, 8), -1.0), "a fox  on a\nbicycle " * 40
    save_grid({"a": images, "b": images}, tmp_path / "short.png")
    save_grid({"a": images, long: images}, tmp_path / "long.png")
    short, wide = (Image.open(tmp_path / f"{name}.png") for name in ("short", "long"))
    assert short.height == wide.height and wide.width < short.width + 300
    sheet = read_grid((tmp_path / "long.png").read_bytes())
    assert sheet is not None and list(sheet.rows) == ["a", long]
    assert sheet.rows[long][1].getextrema() == ((0, 0),) * 3


def test_small_images_are_enlarged_and_headings_take_room(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 8, 8)
    save_grid({"": images}, tmp_path / "plain.png")
    save_grid({"": images}, tmp_path / "headed.png", columns=["0", "1"])
    plain, headed = (Image.open(tmp_path / f"{name}.png") for name in ("plain", "headed"))
    assert plain.height == 16 + 56 + 16
    assert headed.height > plain.height and headed.width == plain.width


def test_a_long_heading_stays_above_its_column(tmp_path: Path) -> None:
    prompt = "a photograph of an astronaut on a horse"
    save_grid({"": torch.zeros(3, 1, 8, 8)}, tmp_path / "grid.png", columns=["", prompt, ""])
    page = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    inked = np.flatnonzero((page[:36] < 255).any(0))
    assert 0 < len(inked) and np.ptp(inked) <= 60
    sheet = read_grid((tmp_path / "grid.png").read_bytes())
    assert sheet is not None and sheet.columns[1] == prompt


def test_a_grid_is_read_back_at_its_own_size(tmp_path: Path) -> None:
    path, images = tmp_path / "grid.png", torch.rand(3, 3, 4, 6) * 2 - 1
    save_grid({"one": images, "two": images[:2].flip(0)}, path, columns=["a", "b", "c"])
    sheet = read_grid(path.read_bytes())
    assert sheet is not None and sheet.columns == ["a", "b", "c"]
    assert {caption: len(row) for caption, row in sheet.rows.items()} == {"one": 3, "two": 2}
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for tile, expected in zip(sheet.rows["one"], levels, strict=True):
        assert torch.equal(torch.tensor(np.asarray(tile)), expected)
    assert sheet.rows["two"][0].tobytes() == sheet.rows["one"][1].tobytes()
    row = Image.open(io.BytesIO(row_of(images)[0]))
    assert torch.equal(torch.tensor(np.asarray(row)), torch.cat(list(levels), 1))


def test_a_picture_of_another_kind_is_no_grid(tmp_path: Path) -> None:
    places = '"rows": {"a": 1}, "columns": [], "at": [0, 0]'
    huge = f'{{{places}, "size": [99999, 99999], "scale": 1}}'
    for layout in (None, "{", "[]", f'{{{places}, "size": 3, "scale": 1}}', huge):
        info, file = PngInfo(), io.BytesIO()
        if layout:
            info.add_text("grid", layout)
        Image.new("RGB", (9, 9)).save(file, "PNG", pnginfo=info)
        assert read_grid(file.getvalue()) is None
    with pytest.raises(OSError):
        read_grid(b"no picture")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*choose another folder"):
        save_grid({"x": torch.zeros(1, 1, 8, 8)}, tmp_path / "file" / "grid.png")


def test_an_older_picture_stays_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grid.png"
    save_grid({"x": torch.zeros(1, 1, 8, 8)}, path)
    older = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_grid({"x": torch.ones(1, 1, 8, 8)}, path)
    monkeypatch.undo()
    assert path.read_bytes() == older
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]
