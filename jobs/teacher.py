#!/usr/bin/env python3
"""Train a small teacher on real images, or import one: an EDM file, or a model in one file."""

import sys

from pipeline.cli import main
from pipeline.cluster.teacher import make_teacher as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("teacher",)))
