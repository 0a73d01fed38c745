"""Images with several captions: all are stored, and one of each is drawn in every epoch."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import S3Config
from pipeline.data.prompts import read_prompts
from pipeline.data.reader import RealReader
from pipeline.models.loading import load_teacher
from pipeline.stages.verify import verify_real
from pipeline.training.gan_images import _encoded
from tests.fixtures.image_sets import content, picture
from tests.fixtures.listings import annotations, write
from tests.fixtures.real_sets import by_id, configure, make, store_of
from tests.fixtures.tiny_models import save_tiny

LISTS = [[f"{number} is {each}" for each in "abc"[: number % 4]] for number in range(8)]
LISTS[0], LISTS[4] = [" one ", "", None], ["two"]
CAPTIONS = [
    *("one", "1 is a", ("2 is a", "2 is b"), ("3 is a", "3 is b", "3 is c")),
    *("two", "5 is a", ("6 is a", "6 is b"), ("7 is a", "7 is b", "7 is c")),
]
IMAGES = [content(picture(number)) for number in range(8)]


def parquet(folder: Path) -> Path:
    folder.mkdir(parents=True)
    table = pa.table({"image": IMAGES, "caption": LISTS})
    pq.write_table(table, folder / "a.parquet")
    return folder


def test_every_layout_may_have_lists(tmp_path: Path) -> None:
    table = [{"file_name": f"{n}.png", "text": each} for n, each in enumerate(LISTS)]
    for number, image in enumerate(IMAGES):
        write(tmp_path / "files" / f"{number}.png", image)
    write(tmp_path / "files" / "metadata.jsonl", "\n".join(map(json.dumps, table)))
    for name, source in (("one", parquet(tmp_path / "rows")), ("two", tmp_path / "files")):
        assert list(annotations(tmp_path / name, source).values()) == CAPTIONS


def test_one_caption_of_each_image_is_drawn_in_every_epoch(tmp_path: Path) -> None:
    config = configure(tmp_path / "run", save_tiny(tmp_path / "sd"), parquet(tmp_path / "in"))
    make(config)
    verify_real(config)
    reader, again, other = (RealReader(store_of(config), seed, 8) for seed in (3, 3, 4))
    epochs = [by_id(reader.batch(epoch)).captions for epoch in range(40)]
    assert by_id(again.batch(17)).captions == epochs[17], "entered anywhere"
    assert [by_id(other.batch(epoch)).captions for epoch in range(40)] != epochs
    for own, *drawn in zip(CAPTIONS, *epochs, strict=True):
        assert set(drawn) == ({own} if isinstance(own, str) else {*own})


def test_the_listings_captions_are_prompts_for_the_discriminator(tmp_path: Path) -> None:
    folder, source = save_tiny(tmp_path / "sd"), parquet(tmp_path / "in")
    config = configure(tmp_path / "run", folder, source)
    make(config)
    listing = f"{config.encode.output}/listing.parquet"
    prompts = list(read_prompts(listing, S3Config()))
    assert prompts == [
        one for each in CAPTIONS for one in ((each,) if isinstance(each, str) else each)
    ]
    file = write(tmp_path / "all.prompts", "".join(f"{json.dumps(each)}\n" for each in prompts))
    teacher = load_teacher(config.teacher.model_copy(update={"prompts": str(file)}))
    images = _encoded(RealReader(store_of(config), 0, 8), teacher)
    labels = {int(each) for index in range(40) for each in images(index)[1]}
    assert labels == set(range(len(prompts)))


def test_lists_elsewhere_are_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="column caption of .* is list.*, not text"):
        list(read_prompts(str(parquet(tmp_path / "in") / "a.parquet"), S3Config()))
