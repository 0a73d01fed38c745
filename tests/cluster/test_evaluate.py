"""The evaluate job on a pool of actors: the figures of one process, in memory that stays flat."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster import evaluate as job
from pipeline.cluster.evaluate import evaluate_student
from pipeline.config import Config
from pipeline.data.images import load_images
from pipeline.evaluation import classifier
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import items, save_parquet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
COUNTS = 5_000, 50_000


def configure(run: Path, **branches: Any) -> Config:
    tree: dict[str, Any] = {
        "run": str(run),
        "data": {"name": None},
        "network": {"channels": [8], "attention": [False], "norm_groups": 4},
        "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 12, 12], "classes": 10}},
        "pairs": {"steps": 2},
        "evaluate": {"count": 60, "batch_size": 500},
    }
    return Config.model_validate(tree | branches)


def save_student(config: Config) -> None:
    """Of random weights."""
    student = new_student(load_teacher(config.teacher), config.network, 0)
    save_denoiser(student, config.evaluate.student, {})


def test_actors_find_the_figures_of_one_process(ray_cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(classifier, "_steps", lambda count: 20)
    digits = {"data": {"name": "digits", "size": 8}, "teacher": {"kind": "diffusers"}}
    alone = configure(tmp_path, **digits)
    real = load_images("digits", 8, None)
    shape = tuple(real.images.shape[1:])
    save_denoiser(new_unet(alone.network, shape, 10, 1), alone.teacher.output, {})
    save_denoiser(new_unet(alone.network, shape, 10, 2), alone.evaluate.student, {})
    shared = {"evaluate": {"count": 60, "batch_size": 500, "actors": {"min": 1, "max": 2}}}
    found = []
    for config in (alone, configure(tmp_path, **digits, **shared)):
        evaluate_student(config)
        shutil.rmtree(tmp_path / "readouts")
        figures = json.loads((tmp_path / "evaluation.json").read_text())
        metrics = figures["metrics"]
        found.append(
            [figures["fd_teacher"], figures["fd_real"], figures["recall"], figures["pixel_fd"]]
            + [metrics["comparisons"][-1]["figures"]["kid"]["floor"]["value"]]
            + [case["id"] for case in metrics["failures"]["surest"]]
            + [pair["real"] for pair in metrics["neighbours"]["nearest"]]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_actors_read_the_reference_of_one_process(ray_cluster, tmp_path) -> None:
    """From Parquet, a batch here and a batch there."""
    save_parquet(tmp_path / "photos", items(40))
    gaussian = {"kind": "gaussian", "gaussian": {"shape": [3, 12, 12], "classes": 10}}
    own = {"count": 30, "batch_size": 8, "reference": str(tmp_path / "photos")}
    found = []
    for actors in ({}, {"actors": {"min": 1, "max": 2}}):
        config = configure(tmp_path, teacher=gaussian, evaluate=own | actors)
        save_student(config)
        evaluate_student(config)
        shutil.rmtree(tmp_path / "readouts")
        figures = json.loads((tmp_path / "evaluation.json").read_text())
        assert figures["n_real"] == 30
        real = figures["metrics"]["comparisons"][-1]
        assert real["reference"]["against"] == "images of all classes in turn"
        found.append(
            [figures["fd_real"], figures["teacher_fd_real"], figures["real_floor"]]
            + [real["figures"]["kid"]["floor"]["value"], figures["recall"]]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_an_actor_refuses_ends_the_job(ray_cluster, tmp_path, monkeypatch) -> None:
    config = configure(tmp_path, evaluate={"count": 60, "actors": {"max": 1}})
    save_student(config)
    other = config.evaluate.model_copy(update={"student": str(tmp_path / "elsewhere")})
    elsewhere = config.model_copy(update={"evaluate": other})  # as on a node without the student
    monkeypatch.setattr(job, "open_reader", _At(job.open_reader, elsewhere))
    with pytest.raises(UserError, match=r"no model at .*elsewhere.*evaluate\.student"):
        evaluate_student(config)


class _At:
    """Opens a reader with other settings."""

    def __init__(self, opened: Callable[..., Any], config: Config) -> None:
        self.opened, self.config = opened, config

    def __call__(self, config: Config, *more: Any) -> Any:
        return self.opened(self.config, *more)


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_ten_times_the_images_take_no_more_memory(start, tmp_path) -> None:
    """Those of 50,000 that are not to be kept would be 150 MiB in the job, 55 in either actor.

    What waits for the job in Ray's object store counts as the job's.
    """
    save_student(configure(tmp_path))
    (tmp_path / "config.yaml").write_text(json.dumps(configure(tmp_path).model_dump(mode="json")))
    peaks = []
    for count in COUNTS:
        settings = {"count": count, "batch_size": 200, "actors.max": 2, "output": tmp_path / "out"}
        overrides = [f"--evaluate.{name}={value}" for name, value in settings.items()]
        start("jobs/evaluate.py", f"--config={tmp_path / 'config.yaml'}", *overrides).finish()
        figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert figures["n_teacher"] == count
        peaks.append(figures["metrics"]["memory"])
    for name, room in (("makers_peak_mib", 40), ("own_peak_mib", 100)):
        assert peaks[1][name] < peaks[0][name] + room, peaks


@pytest.mark.parametrize("name", ["evaluate.scores.pick", "evaluate.student", "teacher.output"])
def test_a_node_with_other_weights_is_refused(name: str) -> None:
    reader: Any = SimpleNamespace(weights={name: "one"})
    with pytest.raises(UserError, match=f"{re.escape(name)}: this node has other weights"):
        job.ReadingActor(reader, 8, {name: "other"})
