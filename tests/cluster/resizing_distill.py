"""The distill job, which looks for new room every few seconds instead of every minute."""

import sys

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.cluster import distill as job

job.RESIZE_SECONDS = 4.0

if __name__ == "__main__":
    sys.exit(main(Job(job.distill)))
