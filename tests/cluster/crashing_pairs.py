"""jobs/pairs.py whose actors die: before, in the middle of, and right after putting a shard.

    crashing_pairs.py MARKS [settings of jobs/pairs.py]

With CRASH_JOB=embed in the environment it is jobs/embed.py, every shard of which takes CRASH_DELAY
seconds more.

Shards 1 and 10 kill their actor before the put, shard 4 in its middle (the file is written but has
not its name; half of the request is sent), shard 7 after it. MARKS is a folder that notes which
crash has been. With CRASH_SHARE in the environment, any call of an actor dies with this chance
instead, in one of the three ways.
"""

import os
import random
import sys
import time
import uuid
from http.client import HTTPConnection
from pathlib import Path
from types import FunctionType

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.cluster import pool
from pipeline.cluster.embed import embed_prompts
from pipeline.cluster.pairs import make_pairs

MARKS = Path(sys.argv[1])
CRASHES = {1: "before", 4: "during", 7: "after", 10: "before"}


class CrashingActor(pool.Actor):
    """An actor that dies at the shards of CRASHES, once each."""

    def make(self, index: int) -> tuple[str, str]:
        time.sleep(float(os.environ.get("CRASH_DELAY", 0)))
        crash = self.crash(index)
        if crash is None:
            return super().make(index)
        if crash == "before":
            os._exit(1)
        if crash == "during":
            os.link = lambda *_: os._exit(1)  # a local file is written, but not under its name
            HTTPConnection.send = die_in_the_body
        super().make(index)
        os._exit(1)

    def crash(self, index: int) -> str | None:
        """When to die in this call, noted."""
        if share := float(os.environ.get("CRASH_SHARE", 0)):
            dies = random.random() < share
            crash = random.choice(["before", "during", "after"]) if dies else None
            (MARKS / f"{index}-{crash}-{uuid.uuid4().hex}").touch()
            return crash
        crash = CRASHES.get(index)
        return crash if crash and first_time(MARKS / f"{index}-{crash}") else None


def die_in_the_body(connection: HTTPConnection, data: object) -> None:
    """Send half of a request's body, then die."""
    if connection.sock is None:
        connection.connect()
    body = data if isinstance(data, bytes) else getattr(data, "read", bytes)()
    if b"PAR1" in body:
        connection.sock.sendall(body[: len(body) // 2])
        os._exit(1)
    connection.sock.sendall(body)


def first_time(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    # the actors' class, changed in the function alone: the class must be found under its own name
    pool._rows = FunctionType(pool._rows.__code__, vars(pool) | {"Actor": CrashingActor})
    job = embed_prompts if os.environ.get("CRASH_JOB") == "embed" else make_pairs
    sys.exit(main(Job(job), sys.argv[2:]))
