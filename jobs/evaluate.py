#!/usr/bin/env python3
"""Judge a student: figures and a picture beside its teacher and the real images."""

import sys

from pipeline.cli import main
from pipeline.cluster.evaluate import evaluate_student as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__))
