"""A run whose folder is on S3."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.config import Config, S3Config
from pipeline.data.fetch import fetch_inputs
from pipeline.data.s3 import S3Store
from pipeline.data.storage import Storage
from pipeline.models.students import load_student
from pipeline.report.page import render
from pipeline.report.source import find, read_run
from pipeline.runs.checkpoint_store import Score
from pipeline.runs.metrics_log import board_scores
from pipeline.runs.run import Run
from pipeline.runs.run_folder import RunFolder
from pipeline.training import loop
from pipeline.utils.errors import UserError


def remote(config: Config) -> Config:
    tree = config.model_dump(mode="json")
    tree["distill"] |= {"output": "s3://bucket/runs/one"}
    tree["evaluate"] |= {"student": "s3://bucket/runs/one/student"}
    return Config.model_validate(tree)


def names(bucket) -> list[str]:
    found = bucket.list_objects_v2(Bucket="bucket").get("Contents", [])
    return [each["Key"].removeprefix("runs/one/") for each in found]


def text(bucket, name: str) -> str:
    return bucket.get_object(Bucket="bucket", Key=f"runs/one/{name}")["Body"].read().decode()


def test_a_run_on_s3_goes_on_on_another_machine_and_ends_like_a_local_one(
    tiny_run, bucket, tmp_path, monkeypatch
):
    local, here = tiny_run("local"), remote(tiny_run("any"))
    loop.train(local)
    Run(local).finish()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one-machine"))
    Run(here).claim()
    answers = iter([False, False, True])
    assert loop.train(here, lambda: next(answers)) == 6
    newest = max(name for name in names(bucket) if name.endswith(".safetensors"))
    assert newest.startswith("checkpoints/0000006")
    key = f"runs/one/{newest}"
    whole = bucket.get_object(Bucket="bucket", Key=key)["Body"].read()
    bucket.put_object(Bucket="bucket", Key=key, Body=whole[:-1000])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    assert not Run(here).is_finished()
    assert loop.train(here) == 10
    Run(here).finish()
    assert Run(here).is_finished()

    output = Path(local.distill.output)
    assert text(bucket, "state.json") == (output / "state.json").read_text()
    steps = [json.loads(line)["step"] for line in text(bucket, "metrics.jsonl").splitlines()]
    assert steps == [2, 4, 6, 8, 10]
    assert json.loads(text(bucket, "state.json"))["step"] == 10
    for commit, distance in zip(reversed(Run(here).commits()), (0.5, 0.25), strict=True):
        Run(here).checkpoints.note(commit, Score(distance, 10))
        board_scores(RunFolder(Run(here).storage), Run(here).checkpoints)
    assert curve(bucket, "loss/regression", tmp_path) == [2, 4, 8, 10]
    assert curve(bucket, "eval/fd_teacher", tmp_path) == [8, 10]
    assert {"samples/step-0000005.png", "samples/step-0000010.png"} <= set(names(bucket))
    assert load_student(fetch_inputs(here, "evaluate").evaluate.student).shape == (1, 4, 4)

    Run(here).log_restart(10, "a worker died")
    seen = read_run(find(here.distill.output, here.s3), here.s3)
    assert [each.kind for each in seen.events] == ["start", "left", "start", "end", "restart"]
    assert list(seen.grids) == [5, 10] and seen.steps == 10 and not seen.troubles
    assert "runs/one" in render([seen])


def curve(bucket, tag: str, tmp_path: Path) -> list[int]:
    """Steps of a curve in the bucket's one file of events."""
    (name,) = (each for each in names(bucket) if each.startswith("tensorboard/"))
    file = tmp_path / Path(name).name
    bucket.download_file("bucket", f"runs/one/{name}", str(file))
    return [each.step for each in EventAccumulator(str(file)).Reload().Scalars(tag)]


def test_what_a_store_refuses_at_the_end_is_tried_again(bucket, monkeypatch):
    storage = Storage("s3://bucket/runs/one", S3Config(region="us-east-1"), "distill.output")
    output, upload, refusals = RunFolder(storage), Storage.upload, iter(range(3))
    (output.folder / "metrics.jsonl").write_text("{}\n")

    def refuse(self: Storage, file: Path, name: str) -> None:
        if next(refusals, None) is not None:
            raise UserError("the answer was cut")
        upload(self, file, name)

    monkeypatch.setattr(Storage, "upload", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    output.try_upload()
    assert not storage.list()
    output.try_upload(tries=4)
    assert list(storage.list()) == ["metrics.jsonl"]


def test_a_student_of_which_not_all_came_to_the_bucket_is_saved_again(
    tiny_run, bucket, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here, plain = remote(tiny_run("any")), S3Store.upload
    Run(here).claim()
    loop.train(here)

    def killed(self: S3Store, file: Path, name: str) -> None:
        if name.endswith("scheduler_config.json"):
            raise KeyboardInterrupt
        plain(self, file, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(S3Store, "upload", killed)
        Run(here).finish()
    assert not Run(here).is_finished()
    with pytest.raises(UserError, match=r"evaluate\.student: .* is not complete"):
        fetch_inputs(here, "evaluate")
    Run(here).finish()
    assert Run(here).is_finished()
    load_student(fetch_inputs(here, "evaluate").evaluate.student)
