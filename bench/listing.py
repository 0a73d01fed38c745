#!/usr/bin/env python3
"""What it costs to list images and to read prompts: time, memory and requests, as they grow.

    python bench/listing.py [--images 10000 100000] [--prompts 100000 1000000]

Each row is a process of its own. Memory is what its peak lies above that of a source of ten.
Requests are those of S3 (moto's, in this process), for an image and its caption each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import S3Config, TeacherConfig  # noqa: E402
from pipeline.data.prompts import local_prompts  # noqa: E402
from pipeline.data.sources.source import Source  # noqa: E402
from pipeline.models.condition import read_prompts  # noqa: E402

FEW, ON_S3 = 10, 2000


def make_images(folder: Path, count: int) -> None:
    """Files with the names of images, a thousand a folder, and their captions."""
    for number in range(count):
        place = folder / f"{number // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07d}.jpg").write_bytes(b"none is opened")
        (place / f"{number:07d}.txt").write_text(f"caption {number}")


def measure(kind: str, source: str) -> dict[str, float]:
    """Read a source in this process: seconds, and peak memory in MB."""
    begin = time.perf_counter()
    if kind == "images":
        count = len(Source(source, S3Config(), "encode.source").table("captions", None))
    else:
        local = local_prompts(TeacherConfig(prompts=source), S3Config())
        count = len(read_prompts(local.prompts))
    seconds = time.perf_counter() - begin
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {"count": count, "seconds": seconds, "memory": peak}


def apart(kind: str, source: Path, cache: Path) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", kind, str(source)],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def grown(kind: str, counts: list[int]) -> None:
    """Print a row for each size of a source."""
    with tempfile.TemporaryDirectory() as folder:
        base = 0.0
        for count in [FEW, *counts]:
            source = Path(folder, f"{count}.txt")
            if kind == "images":
                source = source.with_suffix("")
                make_images(source, count)
            else:
                source.write_text("".join(f"a photo of number {n}\n" for n in range(count)))
            found = apart(kind, source, Path(folder, "cache"))
            assert found["count"] == count
            base = base or found["memory"]
            row = f"{kind:8} {count:9,}  {found['seconds']:7.1f} s"
            print(f"{row}  {found['memory'] - base:7.0f} MB more", flush=True)


def requests() -> None:
    """Print what a listing on S3 sends."""
    import boto3
    from moto import mock_aws

    from pipeline.data import s3

    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with mock_aws(), tempfile.TemporaryDirectory() as folder:
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        make_images(Path(folder), ON_S3)
        for file in Path(folder).rglob("*.*"):
            key = str(file.relative_to(folder))
            client.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())
        Source("s3://bucket/", S3Config(region="us-east-1"), "encode.source").table(
            "captions", None
        )
        print(f"requests {ON_S3:9,}  {dict(s3.REQUESTS)}")


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--prompts", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        print(json.dumps(measure(*settings.measure)))
        return 0
    grown("images", settings.images)
    grown("prompts", settings.prompts)
    requests()
    return 0


if __name__ == "__main__":
    sys.exit(main())
