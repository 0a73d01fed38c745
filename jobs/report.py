#!/usr/bin/env python3
"""Make one HTML page of a run, also of one that still goes on, or of several side by side."""

import sys

from pipeline.cli import main
from pipeline.report.page import report as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, words="report.runs", writes=("report",)))
