#!/usr/bin/env python3
"""Draw colour icons with captions: images for a small text-to-image teacher."""

import sys

from pipeline.cli import main
from pipeline.stages.icons import make_icons as job

if __name__ == "__main__":
    sys.exit(main(job, __doc__, writes=("icons",)))
