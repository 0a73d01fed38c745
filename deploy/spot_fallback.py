#!/usr/bin/env python3
"""Makes Ray pass over a group of nodes that the cloud refuses; started on the head by cluster.yaml.

Ray 2.60 asks the group of the highest priority again and again. Here one that was refused goes
behind the others for ten minutes, by its priority in the file that the autoscaler reads before
every decision.
"""

import json
import sys
import time
from pathlib import Path

from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status

CONFIG = Path("~/ray_bootstrap_config.yaml").expanduser()
SECONDS = 10.0
PASSED_OVER = 600.0

BEHIND = 1000
"""Taken from the priority of a refused group; cluster.yaml's own are from 0 to 999."""


def refused(status: ClusterStatus, now: float) -> set[str]:
    """The groups that the cloud had no node of in the last ten minutes."""
    return {
        launch.ray_node_type_name
        for launch in status.failed_launches
        if now - launch.failed_ts_s < PASSED_OVER
    }


def pass_over(names: set[str], file: Path) -> None:
    """Put these groups behind all others, and the others where cluster.yaml has them."""
    config = json.loads(file.read_text())
    before = json.dumps(config)
    for name, group in config["available_node_types"].items():
        declared = group.get("priority", 0) % BEHIND
        group["priority"] = declared - BEHIND if name in names else declared
    after = json.dumps(config)
    if after != before:
        new = file.with_suffix(".new")
        new.write_text(after)
        new.replace(file)
        print(f"passed over: {sorted(names)}", flush=True)


def main() -> None:
    """Look after the priorities as long as the head lives."""
    while True:
        try:
            status = get_cluster_status(canonicalize_bootstrap_address_or_die(None))
            pass_over(refused(status, time.time()), CONFIG)
        except Exception as error:
            print(f"{type(error).__name__}: {error}; trying again", file=sys.stderr, flush=True)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
