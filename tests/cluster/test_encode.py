"""The encode job: through a real Ray cluster, and what the driver makes of failures."""

import os
import time
from pathlib import Path

import pytest
import torch

from pipeline.cluster import encode, pool
from pipeline.cluster.encode import encode_images
from pipeline.config import Config
from pipeline.data.local import LocalStore
from pipeline.data.prompts import read_prompts
from pipeline.data.reader import RealReader
from pipeline.stages.encode import RealMaker
from pipeline.stages.verify import verify_real
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import items, save_files, save_parquet, save_tars
from tests.fixtures.in_process import encode_images as in_one_process
from tests.fixtures.tiny_models import save_tiny


def configure(run: Path, source: Path, teacher: Path | None = None, actors: int = 1) -> Config:
    """Without a folder the teacher is a Gaussian of 3x8x8 pixels."""
    gaussian = {"kind": "gaussian", "gaussian": {"shape": [3, 8, 8], "classes": 3}}
    count = {"min": actors, "max": actors}
    return Config.model_validate(
        {
            "run": str(run),
            "data": {"name": None},
            "teacher": gaussian if teacher is None else {"output": str(teacher)},
            "encode": {"source": str(source), "shard_size": 4, "actors": count},
        }
    )


@pytest.fixture
def in_process(monkeypatch):
    """One actor in this process, in place of the cluster's."""

    def rows(todo, work):
        actor = pool.Actor(work)
        for index in todo:
            row = actor({"index": [index]})
            yield {name: values[0] for name, values in row.items()}

    monkeypatch.setattr(pool, "_rows", rows)


@pytest.fixture
def classes(tmp_path) -> Path:
    """Three folders, one a class, of four images each."""
    for number in range(3):
        save_files(tmp_path / "source" / f"{number}", items(4))
    return tmp_path / "source"


def test_a_finished_set_is_not_written_to(in_process, tmp_path, classes, refuse_writes, capsys):
    config = configure(tmp_path, classes)
    encode_images(config)
    refuse_writes()
    encode_images(config)
    assert capsys.readouterr().out.count("encode  12 images in 3 shards") == 2
    with pytest.raises(UserError, match="cannot write .probe"):
        encode_images(configure(tmp_path / "new", classes))


def test_prompts_may_be_the_captions_that_it_lists(in_process, tmp_path):
    """So they are not there yet; nor is the network read, which may be large."""
    teacher = save_tiny(tmp_path / "teacher")
    next((teacher / "unet").glob("*.safetensors")).unlink()
    config = configure(tmp_path / "run", save_files(tmp_path / "source", items(5)), teacher)
    listing = f"{config.encode.output}/listing.parquet"
    own = config.teacher.model_copy(update={"prompts": listing})
    encode_images(config.model_copy(update={"teacher": own}))
    assert list(read_prompts(listing, config.s3)) == [caption for _, _, caption in items(5)]


@pytest.mark.cluster
def test_latents_are_made_by_actors_and_a_second_run_does_nothing(
    ray_cluster, tmp_path, capfd, monkeypatch
):
    source = save_tars(tmp_path / "source", items(10))
    config = configure(tmp_path / "run", source, save_tiny(tmp_path / "teacher"), actors=2)
    (tmp_path / "actors").mkdir()

    class Met(RealMaker):
        """Begins when both actors are there."""

        def make(self, index):
            (tmp_path / "actors" / str(os.getpid())).touch()
            end = time.monotonic() + 120
            while len(os.listdir(tmp_path / "actors")) < 2:
                if time.monotonic() > end:
                    raise UserError("one actor has all the work")
                time.sleep(0.05)
            return super().make(index)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "RealMaker", Met)
        encode_images(config)
    batch = RealReader(LocalStore(Path(config.encode.output)), 0, 10).batch(0)
    assert sorted(batch.captions) == sorted(caption for _, _, caption in items(10))
    assert batch.images.shape == (10, 4, 8, 8)
    capfd.readouterr()
    encode_images(config)
    assert "encode  10 images in 3 shards" in capfd.readouterr().out


@pytest.mark.cluster
def test_images_of_several_sizes_are_made_by_actors_to_the_bytes_of_one_process(
    ray_cluster, tmp_path, monkeypatch, capfd
):
    """By two actors, after a job that failed half-way."""
    source = save_parquet(tmp_path / "source", items(14))
    tree = configure(tmp_path / "run", source, save_tiny(tmp_path / "teacher"), 2).model_dump(
        mode="json"
    )
    sizes = [{"size": [16, 16], "weight": 2}, {"size": [24, 16]}, {"size": [16, 32]}]
    tree["teacher"] |= {"buckets": sizes}
    tree["encode"] |= {"shard_size": 2}
    config = Config.model_validate(tree)
    alone = Config.model_validate(tree | {"encode": tree["encode"] | {"output": f"{tmp_path}/one"}})

    class Broken(RealMaker):
        def make(self, index):
            if index % 2:
                raise RuntimeError("a wall")
            return super().make(index)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "RealMaker", Broken)
        with pytest.raises(UserError, match="3 of 7 shards failed"):
            encode_images(config)
    encode_images(config)
    in_one_process(alone)
    ours, theirs = (LocalStore(Path(each.encode.output)) for each in (config, alone))
    assert ours.list() == theirs.list() and len(ours.list("real-")) == 7
    assert all(ours.get(name) == theirs.get(name) for name in ours.list())
    verify_real(config)
    assert "14 images are sound" in capfd.readouterr().out


@pytest.mark.cluster
def test_what_a_reader_refuses_ends_the_job_with_its_message(
    ray_cluster, tmp_path, classes, monkeypatch
):
    config = configure(tmp_path / "run", classes)
    wrong = str(tmp_path / "elsewhere"), config.s3  # as on a node that has no such folder

    def broken(teacher, _, *rest):
        return RealMaker(teacher, wrong, *rest)

    monkeypatch.setattr(encode, "RealMaker", broken)
    with pytest.raises(UserError, match="cannot read .*elsewhere/0/000.jpg"):
        encode_images(config)


def test_a_job_that_fails_half_way_goes_on_to_the_bytes_of_a_whole_one(
    in_process, tmp_path, classes, monkeypatch
):
    whole, broken = (configure(tmp_path / name, classes) for name in ("one", "two"))
    encode_images(whole)
    plain = RealMaker.make

    def make(self, index):
        if index == 1:
            raise RuntimeError("a wall")
        return plain(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(RealMaker, "make", make)
        with pytest.raises(UserError, match="1 of 3 shards failed.*shard 1: RuntimeError.*3 times"):
            encode_images(broken)
    stores = [LocalStore(Path(each.encode.output)) for each in (whole, broken)]
    assert len(stores[1].list("real-")) == 2 and not stores[1].list("manifest-")
    encode_images(broken)
    assert stores[0].list() == stores[1].list()
    assert all(stores[0].get(name) == stores[1].get(name) for name in stores[0].list())


def test_images_left_out_are_said_at_the_end(in_process, tmp_path, classes, capsys):
    (classes / "1" / "002.webp").write_bytes(b"no image")
    encode_images(configure(tmp_path / "run", classes))
    text = capsys.readouterr().out
    assert "encode  11 images in 3 shards" in text
    assert "1 of 12 images cannot be read and are left out, the first 1/002.webp (id 6)" in text


def test_a_raised_share_closes_the_set_without_encoding_anything(
    in_process, tmp_path, classes, monkeypatch
):
    for number in (0, 1):
        for path in (classes / f"{number}").glob("*.webp"):
            path.write_bytes(b"no image")
    config = configure(tmp_path / "run", classes)
    strict = config.model_copy(
        update={"encode": config.encode.model_copy(update={"max_damaged": 0.1})}
    )
    with pytest.raises(UserError, match="encode.max_damaged 0.1: 2 of 12 images cannot be read"):
        encode_images(strict)
    assert len(LocalStore(Path(config.encode.output)).list("real-")) == 3

    def make(self, index):
        raise AssertionError("nothing is left to make")

    monkeypatch.setattr(RealMaker, "make", make)
    encode_images(config)
    assert LocalStore(Path(config.encode.output)).list("manifest-")
    with pytest.raises(UserError, match="encode.max_damaged 0.1: 2 of 12 images cannot be read"):
        encode_images(strict)


def test_what_memory_does_not_hold_ends_the_job_with_the_way_out(
    in_process, tmp_path, classes, monkeypatch
):
    def make(self, index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RealMaker, "make", make)
    with pytest.raises(UserError, match="encode.size: memory .* image of 8x8; share a GPU"):
        encode_images(configure(tmp_path / "run", classes))


def test_a_changed_source_ends_the_next_run(in_process, tmp_path, classes):
    config = configure(tmp_path / "run", classes)
    encode_images(config)
    (classes / "2" / "new.png").write_bytes((classes / "2" / "001.png").read_bytes())
    with pytest.raises(UserError, match="encode.source: .*has changed since; choose another"):
        encode_images(config)


def test_the_last_shard_counts_for_what_it_holds(in_process, tmp_path, capsys):
    source = save_parquet(tmp_path / "source", items(6))
    tree = configure(tmp_path / "run", source).model_dump(mode="json")
    tree["teacher"] = {"output": str(save_tiny(tmp_path / "teacher"))}
    encode_images(Config.model_validate(tree))
    assert "encode  6/6 images  100%" in capsys.readouterr().out
