#!/usr/bin/env python3
"""Make a sheet of one-step images of a student."""

import sys

from pipeline.cli import main
from pipeline.sample import sample as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__))
