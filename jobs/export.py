#!/usr/bin/env python3
"""Save the student of a checkpoint as a diffusers folder, also of a run that still goes on."""

import sys

from pipeline.cli import main
from pipeline.stages.export import export as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("export",)))
