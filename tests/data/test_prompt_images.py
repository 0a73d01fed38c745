"""Images beside prompts are read as they stand, once, and cut to a proportion."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import S3Config, TeacherConfig
from pipeline.data.prompt_images import read_beside
from pipeline.data.prompts import local_prompts
from pipeline.models.condition import read_prompts
from pipeline.utils.errors import UserError
from tests.fixtures.prompt_images import picture, png

ROWS = [("make it blue", 1), ("a hat", 2), ("make it blue", 3), ("again", 1)]


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def save(folder: Path, kind: str) -> Path:
    """`ROWS`, with a second image that all of them share."""
    (folder / "photos").mkdir(parents=True)
    for _, number in ROWS:
        (folder / "photos" / f"{number}.png").write_bytes(png(picture(number)))
    (folder / "hat.jpg").write_bytes(jpeg(picture(9)))
    names = [(prompt, f"photos/{number}.png", "hat.jpg") for prompt, number in ROWS]
    file = folder / f"rows.{kind.partition('-')[0]}"
    if kind == "csv":
        lines = [f"{a},{b},{c}\n" for a, b, c in [("source", "prompt", "hat")]]
        lines += [f"{b},{a},{c}\n" for a, b, c in names]
        file.write_text("".join(lines))
    elif kind == "jsonl":
        keys = ("prompt", "source", "hat")
        file.write_text(
            "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in names)
        )
    else:
        table = {"prompt": [row[0] for row in names], "source": [row[1] for row in names]}
        table["hat"] = [row[2] for row in names]
        for column in ("source", "hat") if kind != "parquet-names" else ():
            data = [(folder / name).read_bytes() for name in table[column]]
            both = [{"bytes": each, "path": "gone.png"} for each in data]
            table[column] = both if kind == "arrow" else data
        made = pa.table(table)
        if kind == "arrow":
            with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, made.schema) as stream:
                stream.write_table(made)
        else:
            pq.write_table(made, file, row_group_size=3)
    return file


def local(path, *columns: str) -> TeacherConfig:
    columns = columns or ("source", "hat")
    return local_prompts(TeacherConfig(prompts=str(path), prompt_images=columns), S3Config())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


KINDS = ("csv", "jsonl", "parquet", "parquet-names", "arrow")


def test_every_kind_gives_the_same_prompts_and_images(tmp_path):
    files = {local(save(tmp_path / kind, kind)).prompts for kind in KINDS}
    assert len(files) == 1, "its name is the SHA-256 of all that it says, images too"
    found = read_prompts(files.pop())
    assert list(found) == [prompt for prompt, _ in ROWS]
    for row, (_, number) in enumerate(ROWS):
        source, hat = found.images(row)
        assert source.read_bytes() == png(picture(number)) and hat.read_bytes() == jpeg(picture(9))
    assert len(list(found.images(0)[0].parent.iterdir())) == 4, "each of them is there once"


def test_another_image_of_the_same_name_is_another_file_of_prompts(tmp_path):
    file = save(tmp_path / "in", "csv")
    before = local(file).prompts
    assert local(file).prompts == before
    (file.parent / "photos" / "2.png").write_bytes(png(picture(4)))
    assert local(file).prompts != before


def test_without_the_setting_images_are_neither_read_nor_part_of_the_prompts(tmp_path):
    file = save(tmp_path / "in", "parquet")
    (tmp_path / "plain.txt").write_text("".join(f"{prompt}\n" for prompt, _ in ROWS))
    plain, images = (
        local_prompts(TeacherConfig(prompts=str(each)), S3Config()).prompts
        for each in (tmp_path / "plain.txt", file)
    )
    assert plain == images and read_prompts(plain).images(0) == []
    assert local(file).prompts != plain


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "prompt,source\na cat,gone.png\n", "cannot read {0}/gone.png"),
        ("a.csv", "prompt,source\na cat,bad.png\n", r"cannot read {0}/bad.png \(no JPEG, PNG"),
        ("a.csv", "prompt,source\na cat,../secret.png\n", "names the image '../secret.png'"),
        ("a.csv", "prompt,source\na cat,/etc/passwd\n", "names the image '/etc/passwd'"),
        ("a.csv", "prompt,source\na cat,s3://b/a.png\n", "names the image 's3://b/a.png'"),
        ("a.csv", "prompt,source\na cat,\n", "a prompt without an image"),
        ("a.csv", "prompt,picture\na cat,1.png\n", "no column source.*it has prompt, picture"),
        ("a.jsonl", '{{"prompt": "a cat"}}\n', "a prompt without an image"),
        ("a.txt", "a cat\n", "no column source"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_it(tmp_path, name, content, told):
    (tmp_path / "secret.png").write_bytes(png(picture(1)))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"<svg/>")
    (folder / name).write_text(content.replace("{{", "{").replace("}}", "}"))
    with pytest.raises(UserError, match=told.format(folder)) as found:
        local(folder / name, "source")
    assert "\n" not in str(found.value) and "teacher.prompt" in str(found.value)
    assert not list((tmp_path / "cache").rglob("*.prompts")), "nothing is half-written"


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
