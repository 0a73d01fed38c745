"""Laws of Parquet sources: which column holds the images, and slices of any row group."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.sources import rows
from pipeline.data.sources.image_column import image_column
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import content, items, picture, save_parquet
from tests.fixtures.listings import IMAGE, S3, listed, write

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HASH = b"0123456789abcdef"
PATH = pa.array([{"bytes": None, "path": "/data/1.png"}], STRUCT)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"


def save(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"md5": [HASH], "photo": [IMAGE]}, "photo"),
        ({"mask": [IMAGE], "JPG": [IMAGE]}, "JPG"),
        ({"jpg": [IMAGE], "image": [IMAGE]}, "image"),
        ({"image": [None, b"damaged"]}, "image"),
        ({"image": PATH, "thumbnail": [IMAGE]}, None),
        ({"md5": [HASH]}, None),
        ({"photo": pa.array([None, IMAGE], pa.large_binary())}, "photo"),
        ({"photo": pa.array([IMAGE, IMAGE]).dictionary_encode()}, "photo"),
        ({"photo": [{"bytes": IMAGE, "path": None}]}, "photo"),
        ({"image": pa.array([], pa.binary())}, "image"),
    ],
)
def test_the_images_are_in_a_column_of_their_name_or_of_their_first_bytes(
    columns, chosen, tmp_path
):
    assert image_column(pq.ParquetFile(save(tmp_path / "a.parquet", **columns))) == chosen


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": PATH},
            "no bytes of images in the column image, only their paths; give the fold",
        ),
        (
            {"images": [[{"bytes": IMAGE, "path": None}]]},
            "lists of images in the column images; wri",
        ),
        ({"URL": ["http://x/1.jpg"], "TEXT": ["a"]}, "is a list of URLs without images; download"),
        ({"md5": [HASH], "text": ["a"]}, "has no column of images .*it has md5, text"),
        ({"photo": [{"bytes": "text"}], "text": ["a"]}, "has no column of images"),
        ({"image": [{"bytes": "text"}], "text": ["a"]}, "has no column of images"),
        ({"image": [IMAGE], "text": [[["a", "b"], ["c"]]]}, "caption .*, not text"),
        ({"image": [IMAGE], "text": ["a\0b"]}, "row 0 of .* has a NUL character in its caption"),
        ({"image": [IMAGE], "text": [[1, 2]]}, "row 0 of .* has the caption '1', not text"),
        (
            {"image": [IMAGE], "text": ["a"], "Text": ["b"]},
            "has two columns, text and Text; rename",
        ),
        ({"image": [IMAGE], "text": [" "]}, "1 of 1 images have no caption"),
    ],
)
def test_a_file_that_holds_no_images_or_no_captions_is_named(columns, message, tmp_path):
    with pytest.raises(UserError, match=f"encode.source: .*{message}"):
        listed(tmp_path, save(tmp_path / "a.parquet", **columns))


def test_two_columns_of_images_of_one_name_are_refused(tmp_path):
    columns = [pa.array([IMAGE]), pa.array([IMAGE])]
    pq.write_table(pa.Table.from_arrays(columns, ["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet has two columns image; rename one"):
        listed(tmp_path, tmp_path / "a.parquet", "nothing")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    for name in ("a.parquet", "a.tar"):
        with pytest.raises(
            UserError, match=rf"{name} .it is a pointer of git-lfs.; run git lfs pull"
        ):
            listed(tmp_path, write(tmp_path / name, POINTER))


def repeated(path: Path, count: int, **values: object) -> Path:
    """A file of few bytes: in each column all rows are one value of a dictionary."""
    indices = pa.array(np.zeros(count, np.int32))
    columns = {
        name: pa.DictionaryArray.from_arrays(indices, pa.array([value]))
        for name, value in values.items()
    }
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size=count,
        compression="zstd",
        dictionary_pagesize_limit=2**26,
    )
    assert path.stat().st_size < 100_000
    return path


def test_a_few_bytes_do_not_become_millions_of_images(tmp_path):
    path = repeated(tmp_path / "a.parquet", 3_000_000, image=b"\x89PNG")
    with pytest.raises(UserError, match="encode.source: .*a.parquet cannot have 3000000 images"):
        listed(tmp_path, path, "nothing")


def test_a_few_bytes_do_not_become_gigabytes_of_captions(tmp_path):
    path = repeated(tmp_path / "a.parquet", 2000, image=IMAGE, text="x" * 2**23)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match="encode.source: .*a.parquet cannot have .* column text"):
        listed(tmp_path, path)
    assert pa.default_memory_pool().max_memory() - before < 2**30


def test_slices_are_small_where_one_value_stands_for_many_rows(tmp_path):
    value = b"\x89PNG" + bytes(2**25 - 4)
    path = repeated(tmp_path / "a.parquet", 1000, image=value)
    found = listed(tmp_path, path, "nothing")
    samples, reader = found.samples(range(17)), found.reader(str(path), S3)
    before = pa.total_allocated_bytes()
    for sample in samples:
        assert len(reader.read(sample)) == len(value)
        assert pa.total_allocated_bytes() - before < 2**30


def test_images_come_in_any_order_from_slices_of_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_ROWS", (2, 2))
    some = items(23)
    source = save_parquet(tmp_path / "source", some, rows=5)
    found = listed(tmp_path, source)
    samples, reader = found.samples(range(23)), found.reader(str(source), S3)
    for order in (range(23), range(22, -1, -1), [5, 4, 6, 3, 9, 2, 20, 11, 12, 0]):
        assert [reader.read(samples[n]) for n in order] == [some[n][1] for n in order]


def test_reading_onward_decodes_a_row_group_once_and_only_slices_of_it(tmp_path, monkeypatch):
    path = save(tmp_path / "a.parquet", image=[content(picture(0))] * 400)
    found = listed(tmp_path, path, "nothing")
    reader, sizes, plain = found.reader(str(path), S3), [], pq.ParquetFile.iter_batches

    def counted(self, *args, **kwargs):
        for batch in plain(self, *args, **kwargs):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for sample in found.samples(range(400)):
        assert reader.read(sample) == IMAGE
    assert max(sizes) == 64 and sum(sizes) < 2 * 400


def test_a_row_group_of_more_than_two_gibibytes_is_read_in_slices(tmp_path):
    """Its file is small: all rows are one value of a dictionary."""
    value, count = b"\x89PNG" + bytes(2**20 - 4), 2100
    one = pa.array([{"bytes": value, "path": "x"}] * 100, STRUCT)
    pq.write_table(
        pa.table({"image": pa.chunked_array([one] * (count // 100))}),
        tmp_path / "a.parquet",
        row_group_size=count,
        compression="zstd",
        dictionary_pagesize_limit=2**26,
    )
    found = listed(tmp_path, tmp_path / "a.parquet", "nothing")
    assert found.count == count
    reader = found.reader(str(tmp_path / "a.parquet"), S3)
    before = pa.total_allocated_bytes()
    assert reader.read(found.samples(range(100, 101))[0]) == value
    assert pa.total_allocated_bytes() - before < 2**29


@pytest.mark.parametrize("wanted", ["captions", "labels"])
def test_a_file_that_gives_fewer_rows_than_it_says_is_damaged(wanted, tmp_path, monkeypatch):
    plain = pq.ParquetFile.iter_batches
    fewer = lambda file, *given, **more: list(plain(file, *given, **more))[:-1]  # noqa: E731
    file = save(tmp_path / "a.parquet", image=[IMAGE] * 3, caption=[*"abc"], label=[0, 1, 0])
    assert listed(tmp_path / "1", file, wanted).count == 3
    monkeypatch.setattr(rows, "_TOGETHER", 2)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fewer)
    with pytest.raises(UserError, match=r"it says 3 rows, and has 2\); fetch the file again"):
        listed(tmp_path / "2", file, wanted)
