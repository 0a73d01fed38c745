"""Jobs that are killed and started again, each with a Ray of its own."""

import sys

import pyarrow.parquet as pq
import pytest

from pipeline.data.local import LocalStore
from tests.cluster.conftest import PAIRS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

EXACT = ["--config", "configs/gaussian.yaml"]


def test_a_killed_pairs_job_goes_on_and_every_id_is_there_once(start, clean, tmp_path):
    store = LocalStore(tmp_path / "pairs")
    (tmp_path / "marks").mkdir()
    crashing = ["tests/cluster/crashing_pairs.py", str(tmp_path / "marks"), *PAIRS]
    for least in (2, 5):
        job = start(*crashing, "--run", str(tmp_path), "--teacher.delay", "0.1")
        job.wait_for(lambda least=least: len(store.list("pairs-")) >= least)
        job.kill()
        assert least <= len(store.list("pairs-")) < 12, "killed in the middle"
    assert not store.list("manifest-")
    start(*crashing, "--run", str(tmp_path)).finish()
    assert len(list((tmp_path / "marks").iterdir())) == 4, "every crash has been"
    files = [store.uri(name) for name in store.list("pairs-")]
    ids = [number for file in files for number in pq.read_table(file)["sample_id"].to_pylist()]
    assert ids == list(range(240))
    assert {name: store.get(name) for name in store.list()} == clean


def test_wrong_input_is_one_line_and_exit_code_2(start, tmp_path):
    lines = start("jobs/distill.py", *EXACT, "--run", str(tmp_path / "run")).finish(2)
    assert len(lines) == 1 and "run jobs/pairs.py" in lines[0]


FULL = """
import os, sys
os.execvp("unshare", ["unshare", "-rm", "bash", "-c", sys.argv[1]])
"""


def test_a_full_disk_is_one_line_and_after_space_is_freed_the_job_goes_on(start, clean, tmp_path):
    disk, pairs = tmp_path / "disk", tmp_path / "disk" / "pairs"
    disk.mkdir()
    job = " ".join([sys.executable, "jobs/pairs.py", *PAIRS, f"--run {tmp_path}/run"])
    script = f"""
        mount -t tmpfs -o size=60k none {disk} || exit 9
        {job} --pairs.output {pairs} 2>{tmp_path}/error; echo "exit code $?"
        ls -A {pairs} >{tmp_path}/full
        mount -o remount,size=10m {disk}
        {job} --pairs.output {pairs} || exit 8
        cp -r {pairs} {tmp_path}/kept
    """
    assert "exit code 2" in start("-c", FULL, script).finish()
    error = (tmp_path / "error").read_text().splitlines()[-1]
    assert "No space left on device; free space" in error and "pairs-0000" in error
    full = (tmp_path / "full").read_text().split()
    made = [name for name in full if name.endswith(".parquet")]
    assert 1 <= len(made) < 12 and set(full) == {*made, "plan.json"}, "nothing half-written"
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == clean
