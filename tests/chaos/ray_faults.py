"""Faults of the real jobs on Ray; the runs go on without it."""

import re
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.chaos.faults import fault
from tests.chaos.forks import Ended
from tests.chaos.trial import COUNT, STEPS, Trial
from tests.cluster.job import Job

ONE_WORKER = ["--pairs.actors.max", "1", "--distill.workers.min", "1", "--distill.workers.max", "1"]


@fault("Ray: all killed", settle=("pairs", "distill"))
def kill_jobs(trial: Trial) -> None:
    """The driver and all that it started, in the middle of the set and of the run."""
    job = at(shards_made, trial.rng.randrange(COUNT // 16), trial, "pairs")
    job.kill()
    trial.settle("pairs")
    at(steps_done, trial.rng.randrange(STEPS), trial, "distill").kill()


@fault("Ray: worker killed")
def kill_worker(trial: Trial) -> None:
    trial.run("pairs")
    job = at(steps_done, trial.rng.randrange(1, STEPS - 1), trial, "distill")
    found = workers(job)
    for each in found:
        each.kill()
    trial.story.append(f"{len(found)} workers are killed")
    ray_end(trial, job)


@fault("Ray: told to stop")
def stop_job(trial: Trial) -> None:
    trial.run("pairs")
    job = at(steps_done, trial.rng.randrange(STEPS - 1), trial, "distill")
    job.process.terminate()
    ray_end(trial, job)


def at(done: Callable[[Trial], int], number: int, trial: Trial, job: str) -> Job:
    """A real job, made slow and with a Ray of its own, once so much is done."""
    env = {"TMPDIR": str(trial.scratch), "RAY_TMPDIR": str(trial.folder / "r")}
    command = [f"jobs/{job}.py", *trial.flags, "--teacher.delay", "0.1", *ONE_WORKER]
    started = Job(trial.folder / f"{job}.log", command, env)
    while started.process.poll() is None and done(trial) < number:
        time.sleep(0.1)
    trial.story.append(f"{job} on Ray has done {done(trial)}")
    return started


def workers(job: Job) -> list[psutil.Process]:
    """The processes that train for a driver."""

    def trains(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return "RayTrainWorker" in str(process.cmdline())
        return False

    return [x for x in psutil.Process(job.process.pid).children(recursive=True) if trains(x)]


def ray_end(trial: Trial, job: Job) -> None:
    """Wait for its end; what Ray passes on of other processes is not its own word."""
    code = job.process.wait(timeout=300)
    lines = [x for x in job.log.read_text().splitlines() if not re.match(r"\x1b\[\d+m\(", x)]
    trial.sound("distill on Ray", Ended(code, lines))


def shards_made(trial: Trial) -> int:
    return sum(name.startswith("pairs/pairs-") for name in trial.place.names())


def steps_done(trial: Trial) -> int:
    found = (re.match(r"distill/checkpoints/(\d+)-\w+\.json", x) for x in trial.place.names())
    return max((int(each.group(1)) for each in found if each), default=0)
