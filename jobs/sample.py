#!/usr/bin/env python3
"""Make a sheet of one-step images of a student, or a page to play with it and its teacher."""

import sys

from pipeline.cli import main
from pipeline.gallery.server import gallery
from pipeline.stages.sample import sample as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, instead={"interactive": gallery}, writes=("sample",)))
