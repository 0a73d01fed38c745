"""Pairs on a real S3 server: crashes, kills and a bad network leave the same set."""

import re
from collections.abc import Iterator

import pytest

from pipeline.config import Config, DistillConfig, S3Config
from pipeline.data.s3 import _connect
from pipeline.data.storage import Storage
from pipeline.runs.run import Run
from pipeline.training import loop
from tests.cluster.conftest import PAIRS
from tests.cluster.faulty_proxy import faulty_proxy
from tests.cluster.radosgw import KEY, SECRET, radosgw

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """URL of a server with one bucket, "bucket"."""
    with pytest.MonkeyPatch.context() as patch, radosgw(tmp_path_factory.mktemp("s3") / "x") as url:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        _connect(url, "us-east-1", None).create_bucket(Bucket="bucket")
        yield url


def open_set(url: str, prefix: str) -> Storage:
    return Storage(
        f"s3://bucket/{prefix}", S3Config(endpoint=url, region="us-east-1"), "pairs.output"
    )


def test_crashing_actors_and_a_killed_driver_leave_every_pair_once(server, clean, start, tmp_path):
    store = open_set(server, "crashes")
    (tmp_path / "marks").mkdir()
    command = ["tests/cluster/crashing_pairs.py", str(tmp_path / "marks"), *PAIRS]
    command += ["--run", str(tmp_path), "--pairs.output", store.uri("")]
    command += ["--s3.endpoint", server]
    for least in (2, 5):
        job = start(*command, "--teacher.delay", "0.1")
        job.wait_for(lambda least=least: len(store.list("pairs-")) >= least)
        job.kill()
        assert least <= len(store.list("pairs-")) < 12, "killed in the middle"
    start(*command).finish()
    assert len(list((tmp_path / "marks").iterdir())) == 4, "every crash has been"
    assert {name: store.get(name) for name in store.list()} == clean
    lines = start("jobs/pairs.py", *command[2:], "--verify").finish()
    assert lines[-1].startswith("verify   240 pairs are sound")


def test_a_bad_network_leaves_the_same_set(server, clean, start, tmp_path):
    with faulty_proxy(server, share=0.15, stall=5, seed=0) as (url, shown):
        output = ["--pairs.output", "s3://bucket/faults", "--s3.endpoint", url]
        start("jobs/pairs.py", *PAIRS, *output, "--run", str(tmp_path)).finish()
    store = open_set(server, "faults")
    assert {name: store.get(name) for name in store.list()} == clean
    assert min(shown[f"{fault} PUT"] for fault in ("503", "reset", "stall")) >= 1, shown
    assert shown["passed on PUT"] >= 14 and sum(shown.values()) > 20, shown


@pytest.mark.parametrize(
    ("where", "key", "message"),
    [
        ("s3://bucket/x", "wrong", "AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch"),
        ("s3://no-such-bucket/x", KEY, "NoSuchBucket.*check the bucket's name"),
    ],
)
def test_wrong_credentials_or_bucket_are_one_line(server, start, tmp_path, where, key, message):
    settings = ["--pairs.output", where, "--s3.endpoint", server, "--run", str(tmp_path)]
    lines = start("jobs/pairs.py", *PAIRS, *settings, AWS_ACCESS_KEY_ID=key).finish(2)
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert SECRET not in lines[0]


def test_a_run_on_s3_passes_over_its_torn_newest_checkpoint(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {
        "run": str(tmp_path),
        "data": {"name": None},
        "network": {"channels": [8], "attention": [False], "norm_groups": 4},
        "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
        "distill": {
            **{"steps": 8, "regression_steps": 0, "burn_in_steps": 2, "batch_size": 8},
            **{"regression": {"weight": 0.0}, "checkpoint_every": 2, "log_every": 2},
        },
        "s3": {"endpoint": server, "region": "us-east-1"},
    }
    states = []
    for name, torn in (("whole", False), ("torn", True)):
        settings["distill"]["output"] = f"s3://bucket/{name}"
        config = Config.model_validate(settings)
        store = open_set(server, name)
        Run(config).claim()
        loop.train(config.model_copy(update={"distill": shorter(config)}))
        if torn:
            newest = max(each for each in store.tree() if each.endswith(".safetensors"))
            store.download(newest, tmp_path / "file")
            (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-500])
            store.upload(tmp_path / "file", newest)
        assert loop.train(config) == 8
        Run(config).finish()
        states.append(store.get("state.json"))
    assert states[0] == states[1]


def shorter(config: Config) -> DistillConfig:
    return config.distill.model_copy(update={"steps": 6})
