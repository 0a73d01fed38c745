"""Videos to look at."""

import io

import pytest
import torch
from PIL import Image

from pipeline.utils.film import moving, strips
from pipeline.utils.image_grid import read_grid, row_of, save_grid


def video(frames: int, side: int = 8) -> torch.Tensor:
    """Two videos of grey frames, lighter from one to the next, the second darker."""
    levels = torch.linspace(-0.5, 1, frames) - torch.tensor([[0.0], [0.4]])
    return levels.view(2, 1, frames, 1, 1).expand(2, 3, frames, side, side)


def test_images_stay_as_they_are() -> None:
    images = torch.rand(2, 3, 4, 6)
    shown, frames = strips(images)
    assert shown is images and frames == 1


@pytest.mark.parametrize(("frames", "side", "kept"), [(5, 8, 5), (81, 8, 8), (8, 256, 8)])
def test_a_strip_goes_from_the_first_frame_to_the_last(frames: int, side: int, kept: int) -> None:
    shown, count = strips(video(frames, side))
    assert count == kept and shown.shape[3] % count == 0 and shown.shape[3] <= 1024
    row = shown[0, 0, 0].view(count, -1)
    assert torch.allclose(row, row[:, :1]) and (row[1:, 0] > row[:-1, 0]).all()
    assert row[0, 0] == pytest.approx(-0.5) and row[-1, 0] == pytest.approx(1)


def test_a_grid_of_videos_is_read_back_with_its_frames(tmp_path) -> None:
    save_grid({"a": video(5), "b": video(5)}, tmp_path / "grid.png")
    sheet = read_grid((tmp_path / "grid.png").read_bytes())
    assert sheet is not None and sheet.frames == 5
    assert [image.size for image in sheet.rows["a"]] == [(40, 8)] * 2


def test_a_row_of_videos_moves_and_one_of_images_does_not() -> None:
    file, kind = row_of(video(5))
    with Image.open(io.BytesIO(file)) as film:
        assert kind == "image/webp" and film.n_frames == 5 and film.size == (16, 8)
        film.seek(4)
        left, right = (film.convert("L").getpixel((x, 4)) for x in (4, 12))
        assert left > 250 and 190 < right < 220
    assert row_of(video(5)[:, :, 0])[1] == "image/png"


def test_pages_are_shown_for_as_long_as_is_said() -> None:
    pages = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 100, 200)]
    with Image.open(io.BytesIO(moving(pages, 90))) as film:
        assert film.n_frames == 3 and film.info["loop"] == 0
        for page in range(3):
            film.seek(page)
            film.load()  # only then it is told
            assert film.info["duration"] == 90


def test_pages_too_large_for_the_format_are_made_smaller() -> None:
    pages = [Image.new("RGB", (20000, 4)), Image.new("RGB", (20000, 4), (255, 0, 0))]
    with Image.open(io.BytesIO(moving(pages, 90))) as film:
        assert film.n_frames == 2 and film.size == (10000, 2)
