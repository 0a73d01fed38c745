"""A run at several sizes whose workers and drivers are killed, on one real Ray cluster."""

import random
from pathlib import Path

import psutil
import pytest

from pipeline.runs.run import Run
from tests.cluster.test_training import Distillation
from tests.fixtures.image_sets import items, save_files
from tests.fixtures.in_process import encode_images, make_pairs
from tests.fixtures.tiny_models import save_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

STEPS = 24
BUCKETS = "[{size: [16, 16], weight: 2}, {size: [24, 16]}, {size: [16, 32]}]"


def settings(folder: Path, run: str) -> list[str]:
    """Three sizes, two workers, a regression on pairs and a GAN on encoded images."""
    values = {
        "run": folder / run,
        "data.name": "null",
        "teacher.kind": "diffusers",
        "teacher.output": folder / "teacher",
        "teacher.prompts": folder / "all.prompts",
        "teacher.buckets": BUCKETS,
        "pairs.output": folder / "pairs",
        "pairs.count": 24,
        "pairs.shard_size": 3,
        "pairs.solver": "euler",
        "pairs.steps": 2,
        "distill.steps": STEPS,
        "distill.regression_steps": 6,
        "distill.burn_in_steps": 3,
        "distill.lanes": 4,
        "distill.batch_size": 8,
        "distill.regression.batch_size": 8,
        "encode.source": folder / "images",
        "encode.output": folder / "real",
        "encode.shard_size": 3,
        "distill.gan.real": "encoded",
        "distill.checkpoint_every": 2,
        "distill.log_every": 2,
        "distill.sample_every": STEPS,
        "distill.workers.min": 2,
        "distill.workers.max": 2,
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return ["--config", "configs/gaussian.yaml", *flags]


def workers() -> list[psutil.Process]:
    """The training workers that live."""
    return [each for each in psutil.Process().children(recursive=True) if trains(each)]


def trains(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return False


KILLS = ((2, False), (6, False), (10, True), (14, False), (18, True))
"""At which steps, and whether of the driver, else of a worker."""


@pytest.mark.prove
def test_kills_change_no_bit_of_a_run_at_three_sizes(ray_cluster, start, tmp_path):
    save_tiny(tmp_path / "teacher", "flux-dev")
    (tmp_path / "all.prompts").write_text('"a cat"\n"a dog"\n')
    whole, broken = (Distillation(start, settings(tmp_path, name)) for name in ("whole", "broken"))
    words = ("a cat", "a dog")
    save_files(tmp_path / "images", [(*each[:2], words[n % 2]) for n, each in enumerate(items(14))])
    make_pairs(whole.config)
    encode_images(whole.config)
    whole.job().finish(seconds=900)
    job, rng = broken.job(), random.Random(5)
    for step, driver in KILLS:
        job.wait_for(lambda step=step: broken.step() >= step, 600)
        if driver:
            job.kill()
            assert broken.step() < STEPS, "killed in the middle"
            job = broken.job()
        else:
            rng.choice(workers()).kill()
    job.finish(seconds=900)
    assert broken.state() == whole.state()
    assert whole.state()["step"] == STEPS
    assert Run(broken.config).fingerprint == Run(whole.config).fingerprint
