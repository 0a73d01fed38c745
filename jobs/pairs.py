#!/usr/bin/env python3
"""Make teacher pairs (noise, image) with a pool of Ray Data actors."""

import sys

from pipeline.cli import main
from pipeline.cluster.pairs import make_pairs as job
from pipeline.stages.verify import inspect, verify

if __name__ == "__main__":
    flags = {"inspect": inspect, "verify": verify}
    sys.exit(main(job, __doc__, instead=flags, writes=("pairs",)))
