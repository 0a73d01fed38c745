#!/usr/bin/env python3
"""Tells Ray when EC2 is about to take this spot machine away; started by cluster.yaml.

EC2 announces it two minutes ahead in the machine's metadata. Ray then starts nothing more here,
and a training run saves a checkpoint and leaves. Needs Python alone, and `ray` on the PATH.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")
SECONDS = 5.0


def ask(path: str, method: str = "GET", **headers: str) -> str | None:
    """An answer of the metadata service; None where there is nothing to say."""
    request = urllib.request.Request(f"{METADATA}/latest/{path}", method=method)
    for name, value in headers.items():
        request.add_header(f"X-aws-ec2-metadata-{name.replace('_', '-')}", value)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def notice() -> dict[str, str] | None:
    """What EC2 will do to the machine, and when; None as long as it will do nothing."""
    token = ask("api/token", "PUT", token_ttl_seconds="60")
    found = ask("meta-data/spot/instance-action", token=token or "")
    return json.loads(found) if found else None


def drain(found: dict[str, str]) -> None:
    """Take this node out of the cluster's plans until the time of the notice."""
    end = datetime.fromisoformat(found["time"].replace("Z", "+00:00"))
    left = max(1, int((end - datetime.now(UTC)).total_seconds()))
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", f"EC2 spot notice: {found['action']} at {found['time']}"]
    command += ["--deadline-remaining-seconds", str(left)]
    subprocess.run(command, check=True)


def main() -> int:
    """Watch until there is a notice, then tell Ray; the exit code says whether it was told."""
    while True:
        try:
            found = notice()
            if found and found["action"] in ("terminate", "stop", "hibernate"):
                drain(found)
                print(f"{found['action']} at {found['time']}: drained", flush=True)
                return 0
        except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
            print(f"{type(error).__name__}: {error}; trying again", file=sys.stderr, flush=True)
        time.sleep(SECONDS)


if __name__ == "__main__":
    sys.exit(main())
