"""Jobs that are killed and started again, each with a Ray of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PAIRS = ["--pairs.count", "240", "--pairs.shard_size", "20", "--pairs.steps", "3"]
DISTILL = [
    *("--distill.steps", "60", "--distill.regression_steps", "10", "--distill.burn_in_steps", "5"),
    *("--distill.checkpoint_every", "10", "--distill.log_every", "5"),
    *("--distill.batch_size", "8", "--distill.regression.batch_size", "8"),
    *("--distill.workers.max", "1", "--distill.sample_every", "60"),
]


@pytest.fixture
def start(tmp_path: Path, tmp_path_factory) -> Callable[..., subprocess.Popen]:
    """Starts a job in a session of its own, with its own Ray files; kills what is left."""
    started = []

    def job(name: str, run: Path, *settings: str) -> subprocess.Popen:
        log = (tmp_path / f"{name}-{len(started)}.log").open("w")
        # Ray's sockets need a short path; a new folder, so that no other cluster is joined.
        home = f"/tmp/ray-test-{os.getpid()}-{len(started)}"
        command = [sys.executable, f"jobs/{name}.py", "--config", "configs/gaussian.yaml"]
        process = subprocess.Popen(
            [*command, "--run", str(run), *settings],
            cwd=ROOT,
            env=os.environ | {"RAY_TMPDIR": home},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.log = Path(log.name)
        started.append(process)
        return process

    yield job
    for process in started:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL the driver and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 200
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.log.read_text()[-3000:]
        assert time.monotonic() < end, process.log.read_text()[-3000:]
        time.sleep(0.05)


def finish(process: subprocess.Popen) -> None:
    assert process.wait(timeout=300) == 0, process.log.read_text()[-3000:]


def test_a_killed_pairs_job_goes_on_and_every_id_is_there_once(start, tmp_path):
    broken, clean = tmp_path / "broken", tmp_path / "clean"
    shards = lambda run: sorted((run / "pairs").glob("pairs-*.parquet"))  # noqa: E731
    slow = ["--teacher.delay", "0.1"]
    for least in (2, 5):
        job = start("pairs", broken, *PAIRS, *slow)
        wait_for(lambda least=least: len(shards(broken)) >= least, job)
        kill(job)
        assert least <= len(shards(broken)) < 12, "killed in the middle"
    assert not list((broken / "pairs").glob("manifest-*.json"))
    finish(start("pairs", broken, *PAIRS))
    finish(start("pairs", clean, *PAIRS))
    ids = [i for file in shards(broken) for i in pq.read_table(file)["sample_id"].to_pylist()]
    assert ids == list(range(240))
    assert [f.read_bytes() for f in shards(broken)] == [f.read_bytes() for f in shards(clean)]


def test_a_killed_distillation_goes_on_and_ends_with_the_same_student(start, tmp_path):
    broken, clean = tmp_path / "broken", tmp_path / "clean"
    shared = ["--pairs.output", str(tmp_path / "pairs")]
    finish(start("pairs", tmp_path / "any", *PAIRS, *shared))
    job = start("distill", broken, *PAIRS, *shared, *DISTILL, "--teacher.delay", "0.1")
    wait_for(lambda: (broken / "distill" / "checkpoint-0000020").exists(), job)
    kill(job)
    assert not (broken / "distill" / "student").exists()
    for run in (broken, clean):
        finish(start("distill", run, *PAIRS, *shared, *DISTILL))
    weights = "distill/student/unet/diffusion_pytorch_model.safetensors"
    assert (broken / weights).read_bytes() == (clean / weights).read_bytes()


def test_wrong_input_is_one_line_and_exit_code_2(start, tmp_path):
    job = start("distill", tmp_path / "run", *DISTILL)
    assert job.wait(timeout=120) == 2
    lines = job.log.read_text().splitlines()
    assert len(lines) == 1 and "run jobs/pairs.py" in lines[0]
