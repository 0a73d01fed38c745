#!/usr/bin/env python3
"""Embed prompts into a set of conditions, which training reads in place of text encoders."""

import sys

from pipeline.cli import main
from pipeline.cluster.embed import embed_prompts as job
from pipeline.stages.verify_conditions import inspect_conditions, verify_conditions

if __name__ == "__main__":
    flags = {"inspect": inspect_conditions, "verify": verify_conditions}
    sys.exit(main(job, __doc__, instead=flags, writes=("embed",)))
