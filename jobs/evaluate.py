#!/usr/bin/env python3
"""Judge a student: figures and a picture beside its teacher and the real images, and a report."""

import sys

from pipeline.cli import main
from pipeline.cluster.evaluate import evaluate_student
from pipeline.config import Config
from pipeline.report.page import report


def job(config: Config) -> None:
    """Evaluate, then show all of the run."""
    evaluate_student(config)
    report(config)


if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("evaluate", "report")))
