"""The distill job: Ray Train workers, each of them reader -> loop -> report."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.cluster.session import connect, user_errors
from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.distill import loop, run
from pipeline.distill.loop import Cluster

RESTARTS = 3
"""Worker groups that may fail before the job does."""


def distill(config: Config) -> None:
    """Train the student and save it as a diffusers folder; run again, it goes on.

    Raises:
        UserError: If teacher, pairs and output do not belong together or cannot be used.
    """
    output, local = Path(config.distill.output).absolute(), fetch_inputs(config, "teacher")
    if run.finished(local):
        print(f"distill  {output} is finished already")
        return
    run.claim(local)
    connect()
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config.model_dump(mode="json"),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name=output.name,
            storage_path=str(output.parent),
            failure_config=FailureConfig(max_failures=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=config.distill.keep),
        ),
    )
    with user_errors():
        result = trainer.fit()
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        run.export(local, Path(folder))
    print(f"distill  saved {run.student_folder(config)}")


def _scaling(config: Config) -> ScalingConfig:
    """As many workers as the cluster holds now, within the configured range."""
    workers = config.distill.workers
    each = {name: n for name, n in (("CPU", workers.cpus), ("GPU", workers.gpus)) if n}
    cluster = ray.cluster_resources()
    fit = min((int(cluster.get(name, 0) // n) for name, n in each.items()), default=workers.max)
    return ScalingConfig(
        num_workers=max(workers.min, min(workers.max, fit)),
        use_gpu=workers.gpus > 0,
        resources_per_worker=each,
    )


def _worker(settings: dict[str, Any]) -> None:
    """What runs on every worker."""
    config = fetch_inputs(Config.model_validate(settings), "teacher")
    # Ray tells every checkpoint on every rank, by a logger that is named after a file of its own.
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(max(1, int(config.distill.workers.cpus)))
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
        loop.run(config, Cluster(Path(folder) if folder else None, _report))


def _report(step: int, folder: Path | None) -> None:
    checkpoint = Checkpoint.from_directory(folder) if folder else None
    ray.train.report(
        {"step": step}, checkpoint=checkpoint, checkpoint_dir_name=f"checkpoint-{step:07d}"
    )
