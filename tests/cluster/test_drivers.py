"""A second driver of a run or a set, which ends before it works or starts Ray."""

import pytest

from pipeline.cluster import distill, embed, encode, pairs
from pipeline.config import Config
from pipeline.data import lease
from pipeline.data.lease import Lease
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError
from tests.fixtures.real_sets import configure, labelled
from tests.fixtures.tiny_models import save_tiny


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)

    def connect() -> None:
        pytest.fail("Ray was started")

    for job in (distill, pairs.pool, encode.pool, embed.pool):
        monkeypatch.setattr(job, "connect", connect)


def refused(job, config, storage: Storage) -> None:
    with Lease(storage):
        before = shown(storage)
        with pytest.raises(UserError, match=storage.setting):
            job(config)
        assert shown(storage) == before


def shown(storage: Storage) -> dict[str, str]:
    """All but what is renewed, and the listing of a source, which is the same for all."""
    tree = storage.tree()
    return {name: tree[name] for name in tree if not name.startswith(("driver", "listing"))}


def test_of_a_run(tiny_run):
    config = tiny_run()
    refused(distill.distill, config, Storage(config.distill.output, config.s3, "distill.output"))


def test_of_a_pair_set(tiny_run):
    config = tiny_run()
    config = config.model_copy(update={"pairs": config.pairs.model_copy(update={"count": 64})})
    refused(pairs.make_pairs, config, Storage(config.pairs.output, config.s3, "pairs.output"))


def test_of_a_set_of_conditions(tmp_path, prompts):
    teacher = {"output": str(save_tiny(tmp_path / "teacher")), "prompts": str(prompts)}
    tree = {"run": str(tmp_path), "data": {"name": None}, "teacher": teacher}
    config = Config.model_validate(tree)
    refused(embed.embed_prompts, config, Storage(config.embed.output, config.s3, "embed.output"))


def test_of_a_set_of_real_images(tmp_path):
    config = configure(tmp_path, None, labelled(tmp_path / "source"))
    storage = Storage(config.encode.output, config.s3, "encode.output")
    refused(encode.encode_images, config, storage)
