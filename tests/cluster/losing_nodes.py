"""Distills on a Ray cluster of two nodes that loses one at a notice, and gets another.

    python tests/cluster/losing_nodes.py <settings of the job>

Prints a line with the step at each event.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ray.cluster_utils import Cluster

from pipeline.cli import load
from pipeline.cluster import distill as job
from pipeline.cluster.pairs import make_pairs
from pipeline.runs.run import Run

job.RESIZE_SECONDS = 4.0
NOTICE = 20


def drain(address: str, node: str) -> None:
    """What the spot watcher does at a notice."""
    command = [Path(sys.executable).with_name("ray"), "drain-node", "--address", address]
    command += ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "test", "--deadline-remaining-seconds", str(NOTICE)]
    subprocess.run(command, check=True)


def main() -> None:
    config = load(sys.argv[1:])
    cluster = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    first, second = (cluster.add_node(num_cpus=1) for _ in range(2))
    cluster.wait_for_nodes()
    make_pairs(config)
    thread = threading.Thread(target=job.distill, args=(config,))
    thread.start()

    def wait_for(condition: Callable[[], bool]) -> None:
        while thread.is_alive() and not condition():
            time.sleep(0.1)

    def step() -> int:
        return max((commit.step for commit in Run(config).checkpoints.commits()), default=0)

    wait_for(lambda: step() >= config.distill.steps // 4)
    drain(cluster.address, second.node_id)
    print("lost", lost := step(), flush=True)
    time.sleep(NOTICE)
    cluster.remove_node(second, allow_graceful=False)
    wait_for(lambda: step() >= lost + config.distill.steps // 4)
    cluster.add_node(num_cpus=1)
    print("got", step(), flush=True)
    thread.join()
    print("done", step(), flush=True)
    os._exit(0)  # Ray's own end may fail over what lay on the lost node


if __name__ == "__main__":
    main()
