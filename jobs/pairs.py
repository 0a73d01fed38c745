#!/usr/bin/env python3
"""The job `pairs` of `pipeline/cli/jobs.py`."""

import sys

from pipeline.cli.jobs import run

if __name__ == "__main__":
    sys.exit(run("pairs"))
