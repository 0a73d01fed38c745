"""From drawn icons to an evaluated student by `ray job submit`; each phase loses its head once."""

import json
from pathlib import Path

import pytest

from pipeline.data.storage import Storage
from pipeline.runs.run import Run
from tests.cluster.head import Head, head
from tests.cluster.test_submit import die_in_the_middle
from tests.fixtures.icons import configured

pytestmark = [pytest.mark.cluster, pytest.mark.prove, pytest.mark.timeout(1800)]

PAIRS = {"count": 80, "shard_size": 4, "batch_size": 4, "solver": "dpmpp_2m", "steps": 20}
DISTILL = {
    **{"steps": 80, "regression_steps": 40, "burn_in_steps": 10, "batch_size": 8, "lanes": 2},
    **{"checkpoint_every": 5, "log_every": 5, "regression": {"batch_size": 8}},
    "workers": {"min": 1, "max": 1},
}
JUDGED = {"names": ["name"], "attributes": ["background", "size"]}


def test_every_phase_outlives_its_head(tmp_path: Path) -> None:
    config = configured(
        tmp_path / "run",
        pairs=PAIRS,
        distill=DISTILL,
        evaluate={"count": 20, "features": "efficientnet-lite0", "judged": JUDGED},
    )
    (tmp_path / "config.yaml").write_text(config.model_dump_json())
    flags = ["--config", str(tmp_path / "config.yaml"), "--teacher.training.steps", "60"]
    flags += ["--teacher.training.text.autoencoder.steps", "60"]
    states, pairs = (
        tmp_path / "run" / "teacher.training",
        Storage(config.pairs.output, config.s3, "pairs.output"),
    )

    def step() -> int:
        return max((commit.step for commit in Run(config).checkpoints.commits()), default=0)

    def job(name: str) -> tuple[str, ...]:
        return ("python", f"jobs/{name}.py", *flags)

    with head(Head(tmp_path, "--num-cpus", "3")) as cluster:
        assert cluster.submit("--", *job("icons")).wait_for_end().returncode == 0
        die_in_the_middle(cluster, job("teacher"), (states / "autoencoder.pt").is_file)
        assert (Path(config.teacher.output) / "model_index.json").is_file()
        die_in_the_middle(cluster, job("pairs"), lambda: len(pairs.list()) > 4)
        die_in_the_middle(cluster, job("distill"), lambda: step() >= 10)
        assert step() == config.distill.steps
        done = cluster.submit("--", *job("evaluate")).wait_for_end()
        assert done.returncode == 0, done.stdout
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["names_seen"].keys() == {"student", "teacher", "real", "reconstruction"}
    assert figures["vae_psnr_held_out"] > 0 and (tmp_path / "run" / "captions.png").is_file()
