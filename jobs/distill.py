#!/usr/bin/env python3
"""Distil the teacher into a one-step student with Ray Train."""

import sys

from pipeline.cli import main
from pipeline.cluster.distill import distill as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("distill",)))
