"""Images beside prompts are read as they stand, and cut to a proportion."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.prompt_images import read_beside
from pipeline.utils.errors import UserError
from tests.fixtures.prompt_images import picture, png


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (32, 48, (0, 0, 48, 32)),
        (512, 768, (0, 0, 48, 32)),
        (1, 1, (8, 0, 40, 32)),
        (32, 16, (16, 0, 32, 32)),
        (1, 3, (0, 8, 48, 24)),
        (1, 4800, (0, 15, 48, 16)),
    ],
)
def test_the_middle_is_cut_out(tmp_path, height, width, box):
    file = tmp_path / "a"
    file.write_bytes(png(picture(1)))
    found = read_beside(file, height, width)
    assert found.mode == "RGB"
    assert np.array_equal(np.array(found), np.array(picture(1).crop(box)))


def test_transparent_parts_are_white(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(png(Image.new("RGBA", (4, 4), (9, 9, 9, 0))))
    assert (np.array(read_beside(file, 1, 1)) == 255).all()


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "bad").write_bytes(b"not an image")
    for name in ("bad", "gone"):
        with pytest.raises(UserError, match=rf"prompt_images: cannot read {tmp_path / name}"):
            read_beside(tmp_path / name, 1, 1)
