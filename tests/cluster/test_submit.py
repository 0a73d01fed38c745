"""All jobs by `ray job submit` on a head with token auth that dies in between."""

import json
import time
from pathlib import Path

import pytest

from pipeline.cli import load
from pipeline.data.storage import Storage
from pipeline.runs.run import Run
from tests.cluster.head import Head, head

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SETTINGS = {
    "pairs.count": 400,
    "pairs.shard_size": 10,
    "pairs.steps": 3,
    "teacher.delay": 0.05,
    "distill.steps": 60,
    "distill.regression_steps": 10,
    "distill.burn_in_steps": 5,
    "distill.batch_size": 16,
    "distill.regression.batch_size": 16,
    "distill.checkpoint_every": 5,
    "distill.log_every": 5,
    "distill.workers.max": 1,
    "evaluate.count": 100,
}


def wait_for(condition, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def die_in_the_middle(cluster: Head, job: tuple[str, ...], halfway) -> None:
    """Submit, kill the head when it is halfway, start it again, submit the same to the end."""
    first = cluster.submit("--", *job)
    wait_for(halfway)
    cluster.kill()
    assert first.wait_for_end().returncode != 0
    cluster.start()
    second = cluster.submit("--", *job).wait_for_end()
    assert second.returncode == 0, second.stdout


def test_both_jobs_outlive_their_head(tmp_path: Path) -> None:
    flags = ["--config", "configs/gaussian.yaml", "--run", str(tmp_path / "run")]
    flags += [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
    config = load(flags)
    store = Storage(config.pairs.output, config.s3, "pairs.output")

    def shards() -> int:
        return sum(name.endswith(".parquet") for name in store.list())

    def step() -> int:
        return max((commit.step for commit in Run(config).checkpoints.commits()), default=0)

    with head(Head(tmp_path, "--num-cpus", "3")) as cluster:
        die_in_the_middle(cluster, ("python", "jobs/pairs.py", *flags), lambda: shards() >= 5)
        assert shards() == 40
        die_in_the_middle(cluster, ("python", "jobs/distill.py", *flags), lambda: step() >= 10)
        state = json.loads((Path(config.distill.output) / "state.json").read_text())
        assert state["step"] == 60

        others = {
            name: cluster.submit("--", "python", f"jobs/{name}.py", *flags)
            for name in ("teacher", "export", "evaluate")
        }
        wrong = cluster.submit("--", "python", "jobs/distill.py", *flags, "--distill.steps", "0")
        lost = cluster.submit("--", "python", "jobs/pairs.py", *flags, "--run", "runs/one")
        settings = tmp_path / "own.yaml"
        recipe = Path("configs/gaussian.yaml").read_text()
        settings.write_text(recipe.replace("run: runs/gaussian", f"run: {tmp_path / 'run'}"))
        env = json.dumps({"env_vars": {"DMD_CONFIG": str(settings)}})
        others["sample"] = cluster.submit("--runtime-env-json", env, "jobs/sample.py")
        for name, each in others.items():
            done = each.wait_for_end()
            assert done.returncode == 0, (name, done.stdout)
        assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["n_teacher"] == 100
        assert (tmp_path / "run" / "export" / "model_index.json").is_file()
        assert (tmp_path / "run" / "samples.png").is_file()
        refused = wrong.wait_for_end()
        assert refused.returncode != 0
        assert "distill.steps: 0 is out of range: must be more than 0" in refused.stdout
        refused = lost.wait_for_end()
        assert refused.returncode != 0
        assert "run: /" in refused.stdout and "would be lost with this job's copy" in refused.stdout
