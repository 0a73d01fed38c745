#!/usr/bin/env python3
"""Check teacher, stores, cluster and memory before a run, and estimate its time and cost."""

import sys

from pipeline.cli import main
from pipeline.cluster.doctor import doctor as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("pairs", "distill")))
