#!/usr/bin/env python3
"""Encode real images into a set of latents (or pixels), with a pool of Ray Data actors."""

import sys

from pipeline.cli import main
from pipeline.cluster.encode import encode_images as job
from pipeline.stages.verify import inspect_real, verify_real

if __name__ == "__main__":
    flags = {"inspect": inspect_real, "verify": verify_real}
    sys.exit(main(job, __doc__, instead=flags, writes=("encode",)))
