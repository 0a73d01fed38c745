"""Training that loses a worker, its driver, a node, or is told to stop, on one real Ray cluster."""

import json
import os
import random
import signal
from pathlib import Path
from statistics import stdev

import psutil
import pytest
import ray

from pipeline.cli import load
from pipeline.cluster.distill import RESTARTS
from pipeline.runs.run import Run
from pipeline.stages.score import score
from pipeline.stages.teacher import make_teacher
from tests.fixtures.in_process import make_pairs
from tests.fixtures.metrics import lines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 60


def settings(folder: Path, workers: int, **more: object) -> list[str]:
    values = {
        "run": folder,
        "pairs.output": folder.parent / "pairs",
        "pairs.count": 240,
        "pairs.shard_size": 40,
        "pairs.steps": 3,
        "teacher.delay": 0.05,
        "distill.steps": STEPS,
        "distill.regression_steps": 10,
        "distill.burn_in_steps": 5,
        "distill.lanes": 4,
        "distill.batch_size": 16,
        "distill.regression.batch_size": 16,
        "distill.checkpoint_every": 5,
        "distill.log_every": 5,
        "distill.sample_every": STEPS,
        "distill.workers.min": workers,
        "distill.workers.max": workers,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["--config", "configs/gaussian.yaml", *flags]


class Distillation:
    """A distillation in a process of its own, on the session's cluster."""

    def __init__(self, start, flags: list[str]):
        self.settings, self.start = flags, start
        self.config = load(flags)

    def job(self):
        return self.start("jobs/distill.py", *self.settings, RAY_ADDRESS=address())

    def step(self) -> int:
        return max((commit.step for commit in Run(self.config).checkpoints.commits()), default=0)

    def state(self) -> dict:
        return json.loads((Path(self.config.distill.output) / "state.json").read_text())


def address() -> str:
    """Of this session's cluster."""
    return str(ray.get_runtime_context().gcs_address)


def workers() -> list[psutil.Process]:
    """The training workers of this session's cluster."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if "RayTrainWorker" in " ".join(each.cmdline())]


def break_and_compare(whole: Distillation, broken: Distillation, rng: random.Random) -> None:
    """Kill a worker and later the driver of one run; both end with the same bits."""
    whole.job().finish(seconds=900)
    steps = broken.config.distill.steps
    first, second = (
        rng.randrange(steps // 12, steps // 3),
        rng.randrange(steps // 2, 3 * steps // 4),
    )
    job = broken.job()
    job.wait_for(lambda: broken.step() >= first, 600)
    rng.choice(workers()).kill()
    job.wait_for(lambda: broken.step() >= second, 600)
    job.kill()
    assert second <= broken.step() < steps, "killed in the middle"
    broken.job().finish(seconds=900)
    assert broken.state() == whole.state()
    assert whole.state()["step"] == steps


def test_killed_workers_and_a_killed_driver_change_no_bit(ray_cluster, start, tmp_path):
    """Of three workers; one, two and three in `make prove`."""
    whole, broken = (
        Distillation(start, settings(tmp_path / name, 3)) for name in ("whole", "broken")
    )
    make_pairs(whole.config)
    break_and_compare(whole, broken, random.Random(3))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> list[str]:
    """The digits recipe, its phases shortened, with its teacher; pairs are made once."""
    folder = tmp_path_factory.mktemp("digits")
    flags = ["--config", "configs/digits.yaml", "--teacher.output", str(folder / "teacher")]
    flags += ["--pairs.output", str(folder / "pairs"), "--teacher.training.steps", "200"]
    flags += ["--pairs.count", "1000", "--pairs.shard_size", "500"]
    make_teacher(load([*flags, "--run", str(folder)]))
    for name, value in (("steps", 240), ("regression_steps", 80), ("burn_in_steps", 40)):
        flags += [f"--distill.{name}", str(value)]
    return [*flags, "--distill.checkpoint_every", "20", "--distill.lanes", "4"]


@pytest.mark.prove
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_digits_recipe_killed_changes_no_bit(ray_cluster, digits, start, tmp_path, count):
    size = ["--distill.workers.min", str(count), "--distill.workers.max", str(count)]
    whole, broken = (
        Distillation(start, [*digits, *size, "--run", str(tmp_path / name)])
        for name in ("whole", "broken")
    )
    make_pairs(whole.config)
    break_and_compare(whole, broken, random.Random(10 + count))


@pytest.mark.prove
@pytest.mark.timeout(3000)
def test_a_node_lost_and_got_costs_less_than_another_seed(ray_cluster, digits, start, tmp_path):
    """The Fréchet distance to the teacher, against its spread over three unbroken seeds."""

    def distance(name: str, *own: str) -> float:
        flags = [*digits, *own, "--run", str(tmp_path / name), "--distill.scoring.count", "1000"]
        config = load(flags)
        newest = Run(config).checkpoints.commits()[0]
        assert newest.step == config.distill.steps
        return score(config, newest.name).fd_teacher

    elastic = ["--distill.workers.min", "1", "--run", str(tmp_path / "elastic")]
    waits = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}  # for a node that is going
    job = start("-m", "tests.cluster.losing_nodes", *digits, *elastic, **waits)
    printed = job.finish(seconds=1500)
    events = [line.split()[0] for line in printed if line.startswith(("lost ", "got ", "done "))]
    assert events == ["lost", "got", "done"]
    seeds = []
    for seed in ("0", "1", "2"):  # of the training; the pairs are the same
        own = ["--seed", seed, "--distill.workers.max", "1"]
        Distillation(start, [*digits, *own, "--run", str(tmp_path / seed)]).job().finish(
            seconds=900
        )
        seeds.append(distance(seed, *own))
    print(f"elastic {distance('elastic'):.4g}, seeds {seeds}")
    assert abs(distance("elastic") - seeds[0]) <= stdev(seeds)


def test_a_stopped_job_saves_and_says_where_it_stands(ray_cluster, start, tmp_path):
    one = Distillation(start, settings(tmp_path / "run", 2))
    make_pairs(one.config)
    job = start("jobs/distill.py", *one.settings, RAY_ADDRESS="local")
    job.wait_for(lambda: one.step() >= 10)
    os.killpg(job.process.pid, signal.SIGTERM)  # as `timeout` and batch systems do
    lines = job.finish(130)
    # What Ray passes on of other processes comes out of turn, and later where the machine is busy.
    lines = [line for line in lines if " pid=" not in line]
    assert lines[-1] == f"stopped at step {one.step()}; run the same command to go on"
    assert 10 <= one.step() < STEPS
    assert not [line for line in lines if "Traceback" in line]


def test_a_failure_at_the_same_step_ends_the_job_after_its_bound(ray_cluster, start, tmp_path):
    one = Distillation(start, settings(tmp_path / "run", 1))
    make_pairs(one.config)
    job = start("tests/cluster/crashing_distill.py", *one.settings, RAY_ADDRESS=address())
    printed = "\n".join(job.finish(1))
    assert printed.count("starting again at step 10") == RESTARTS
    assert one.step() == 10


def test_a_node_lost_and_a_node_got_change_neither_steps_nor_samples(ray_cluster, start, tmp_path):
    more = {"distill__steps": 100, "distill__log_every": 1, "distill__keep": 100}
    elastic = settings(tmp_path / "elastic", 2, **more, distill__workers__min=1)
    config = load(elastic)
    make_pairs(config)
    waits = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}  # for a node that is going
    job = start("-m", "tests.cluster.losing_nodes", *elastic, **waits)
    printed = job.finish(seconds=450)
    events = [line.split() for line in printed if line.startswith(("lost ", "got ", "done "))]
    assert "a node is about to be taken away" in job.log.read_text()
    assert [name for name, _ in events] == ["lost", "got", "done"]
    assert int(events[-1][1]) == 100
    sizes = [len(commit.files) for commit in reversed(Run(config).checkpoints.commits())]
    assert sizes[0] == 2 and 1 in sizes and sizes[-1] == 2, "shrunk and grown"
    one = Distillation(start, settings(tmp_path / "alone", 1, **more))
    one.job().finish()
    # The same ids and noise at every step: else the losses would not agree to rounding.
    for ours, theirs in zip(lines(config), lines(one.config), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-5)
