"""jobs/distill.py whose workers die at one step, every time."""

import sys
from typing import Any

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.cluster import distill as job

worker = job._worker


def dying(**given: Any) -> None:
    """A worker that ends at step 13 as by a fault of its machine."""
    import os

    from pipeline.training.step import TrainStep

    step = TrainStep.__call__
    TrainStep.__call__ = lambda self, n, *rest: os._exit(1) if n == 12 else step(self, n, *rest)
    worker(**given)


if __name__ == "__main__":
    job._worker = dying
    sys.exit(main(Job(job.distill)))
