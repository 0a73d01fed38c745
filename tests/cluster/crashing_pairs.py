"""jobs/pairs.py whose actors die: before, in the middle of, and right after putting a shard.

    crashing_pairs.py MARKS [settings of jobs/pairs.py]

Shard 1 kills its actor before the put, shard 4 in its middle, shard 7 after it, shard 10 before it
twice; MARKS is a folder that notes which crash has been.
"""

import os
import sys
import threading
import time
from pathlib import Path
from types import FunctionType

from pipeline.cli import main
from pipeline.cluster import pairs

MARKS = Path(sys.argv[1])
CRASHES = {1: "before", 4: "during", 7: "after", 10: "before"}


class CrashingMaker(pairs._Maker):
    """An actor that dies at the shards of CRASHES, once each."""

    def make(self, index: int) -> tuple[str, str]:
        crash = CRASHES.get(index)
        if crash is None or not first_time(MARKS / f"{index}-{crash}"):
            return super().make(index)
        if crash == "before":
            os._exit(1)
        if crash == "during":
            threading.Thread(target=super().make, args=(index,), daemon=True).start()
            time.sleep(0.05)
            os._exit(1)
        super().make(index)
        os._exit(1)


def first_time(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    # the actors' class, changed in the function alone: the class must be found under its own name
    pairs._make = FunctionType(pairs._make.__code__, vars(pairs) | {"_Maker": CrashingMaker})
    sys.exit(main(pairs.make_pairs, __doc__, sys.argv[2:]))
