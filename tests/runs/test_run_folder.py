"""A run whose folder is on S3."""

import json
from pathlib import Path

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.models.students import load_student
from pipeline.report.page import render
from pipeline.report.source import find, read_run
from pipeline.runs.run import Run
from pipeline.training import loop


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
    assert {"samples/step-0000005.png", "samples/step-0000010.png"} <= set(names(bucket))
    assert load_student(fetch_inputs(here, "evaluate").evaluate.student).shape == (1, 4, 4)

    Run(here).log_restart(10, "a worker died")
    seen = read_run(find(here.distill.output, here.s3), here.s3)
    assert [each.kind for each in seen.events] == ["start", "left", "start", "end", "restart"]
    assert list(seen.grids) == [5, 10] and seen.steps == 10 and not seen.troubles
    assert "runs/one" in render([seen])
