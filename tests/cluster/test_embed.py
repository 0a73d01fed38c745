"""The embed job: what is left after deaths of actors and drivers, and a run on what it made."""

from pathlib import Path

import pytest

from pipeline.cluster import pool
from pipeline.cluster.doctor import Examination
from pipeline.cluster.embed import embed_prompts
from pipeline.config import Config
from pipeline.data.local import LocalStore
from pipeline.stages.embed import ConditionMaker
from pipeline.stages.verify_conditions import verify_conditions
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny

ROWS, SHARD = 240, 20
"""Twelve shards; the negative prompt is the last row."""


@pytest.fixture
def flags(tmp_path) -> list[str]:
    """Of jobs/embed.py, but for the run."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"{n}" for n in range(ROWS - 1)))
    return [
        *("--config", "configs/sd15.yaml", "--teacher.prompts", str(prompts)),
        *("--teacher.output", str(save_tiny(tmp_path / "teacher")), "--data.name", "null"),
        *("--embed.shard_size", str(SHARD), "--embed.actors.gpus", "0"),
    ]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na cow\na sea\na hill")
    return Config.model_validate(
        {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "teacher": {
                "output": str(save_tiny(tmp_path / "teacher")),
                "prompts": str(tmp_path / "prompts.txt"),
            },
            "embed": {"shard_size": 2},
            "distill": {"conditions": "stored"},
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


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_after_deaths_of_actors_and_of_two_drivers_the_bytes_are_those_of_a_quiet_job(
    start, flags, tmp_path
):
    """A third of the shards kills its actor, before, in the middle of, or after the put."""
    quiet, store = LocalStore(tmp_path / "quiet/conditions"), LocalStore(tmp_path / "conditions")
    start("jobs/embed.py", *flags, "--run", str(tmp_path / "quiet")).finish()
    (tmp_path / "marks").mkdir()
    crashing = ["tests/cluster/crashing_pairs.py", str(tmp_path / "marks"), *flags]
    for least in (2, 5):
        job = start(*crashing, "--run", str(tmp_path), CRASH_JOB="embed", CRASH_DELAY="1")
        job.wait_for(lambda least=least: len(store.list("conditions-")) >= least, seconds=400)
        job.kill()
        assert least <= len(store.list("conditions-")) < ROWS // SHARD, "killed in the middle"
    assert not store.list("manifest-")
    start(*crashing, "--run", str(tmp_path), CRASH_JOB="embed").finish(seconds=600)
    assert len(list((tmp_path / "marks").iterdir())) == 4, "every crash has been"
    assert len(store.list("conditions-")) == ROWS // SHARD
    assert store.list() == quiet.list()
    assert all(store.get(name) == quiet.get(name) for name in store.list())
    lines = start("jobs/embed.py", "--verify", *flags, "--run", str(tmp_path)).finish()
    assert lines[-1] == f"verify   {ROWS} conditions are sound"


def test_a_finished_set_is_not_written_to(in_process, config, refuse_writes, capsys):
    embed_prompts(config)
    verify_conditions(config)
    refuse_writes()
    embed_prompts(config)
    assert capsys.readouterr().out.count("embed  6 conditions in 3 shards") == 2
    other = config.model_dump(mode="json")
    other["embed"] |= {"precision": "fp32"}
    with pytest.raises(UserError, match="cannot write .probe"):
        embed_prompts(Config.model_validate(other))


def test_another_set_is_not_mixed_with_it(in_process, config):
    embed_prompts(config)
    for branch, change in (
        ("embed", {"precision": "fp16"}),
        ("teacher", {"negative_prompt": "dark"}),
    ):
        other = config.model_dump(mode="json")
        other[branch] |= change
        with pytest.raises(UserError, match=f"embed.output: .*another one: it has {[*change][0]}"):
            embed_prompts(Config.model_validate(other))


def test_a_shard_that_fails_is_told_after_the_others_and_made_by_the_next_job(
    in_process, config, monkeypatch
):
    plain = ConditionMaker.make

    def make(self, index):
        if index == 1:
            raise RuntimeError("a wall")
        return plain(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ConditionMaker, "make", make)
        with pytest.raises(UserError, match="1 of 3 shards failed.*shard 1: RuntimeError: a wall"):
            embed_prompts(config)
    embed_prompts(config)
    assert "manifest-6.json" in LocalStore(Path(config.embed.output)).list()


def test_the_doctor_says_what_is_missing_and_what_is_there(in_process, config):
    def findings() -> dict[str, tuple[str, str]]:
        found = {}
        for each in Examination(config).findings():
            found[each.title] = each.mark, each.text
            if each.title == "pairs.output":
                return found
        return found

    mark, text = findings()["conditions"]
    assert mark == "FAIL" and "no complete condition set in" in text and "jobs/embed.py" in text
    embed_prompts(config)
    found = findings()
    assert found["conditions"][0] == found["teacher"][0] == "ok"
    assert found["conditions"][1] == f"5 prompts in {config.embed.output}, bf16"
