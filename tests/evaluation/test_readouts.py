"""What an evaluation keeps for the next: nothing is made twice, and nothing taken for another."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.evaluation import speed
from pipeline.evaluation.image_reader import Batch, ImageReader, Task, in_process
from pipeline.evaluation.metrics import bootstrap
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.stages.evaluate import evaluate

SETS = ("teacher", "floor", "student")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    monkeypatch.setattr(speed, "_LONGEST", 0.02)


def configure(run: Path, name: str = "student", **branches: Any) -> Config:
    tree: dict[str, Any] = {
        "run": str(run),
        "data": {"name": None},
        "network": {"channels": [8], "attention": [False], "norm_groups": 4},
        "teacher": {"kind": "gaussian"},
        "pairs": {"steps": 2},
        "evaluate": {"count": 40, "batch_size": 20, "student": str(run / name)},
    }
    return Config.model_validate(tree | branches)


def save(config: Config, seed: int) -> None:
    save_denoiser(new_unet(config.network, (1, 8, 8), 10, seed), config.evaluate.student, {})


def read(config: Config, most: int = 100) -> list[str]:
    """Sets whose batches were made, each by its name; broken off after so many."""
    made: list[str] = []

    def stream(reader: ImageReader, tasks: Sequence[Task]) -> Iterator[Batch]:
        for batch in in_process(reader, tasks):
            yield batch
            made.append(batch.task.name)
            if len(made) == most:
                raise KeyboardInterrupt

    try:
        evaluate(config, stream)
    except KeyboardInterrupt:
        assert len(made) == most
    return made


def figures(config: Config) -> dict[str, Any]:
    found = json.loads((Path(config.run) / "evaluation.json").read_text())
    return {name: found[name] for name in ("fd_teacher", "fd_floor", "pixel_fd", "student")}


def test_one_that_was_broken_off_goes_on_and_ends_with_the_same_figures(tmp_path: Path) -> None:
    whole, broken = configure(tmp_path / "whole"), configure(tmp_path / "broken")
    for config in (whole, broken):
        save(config, 0)
    assert read(whole) == [name for name in SETS for _ in range(2)]
    assert read(broken, 3) == ["teacher", "teacher", "floor"]
    assert read(broken) == ["floor", "student", "student"]
    assert figures(broken) == figures(whole)
    assert read(broken) == []


def test_of_another_student_its_own_images_are_made_alone(tmp_path: Path) -> None:
    one, other = configure(tmp_path), configure(tmp_path, "other")
    alone = configure(tmp_path / "alone", "other")
    for config, seed in ((one, 0), (other, 1), (alone, 1)):
        save(config, seed)
        made = read(config)
    assert made == [name for name in SETS for _ in range(2)]
    read(one)
    assert read(other) == ["student", "student"]
    assert figures(other) == figures(alone)
    assert len([*(tmp_path / "readouts").iterdir()]) == 2  # the first student's are gone


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": {"steps": 3}},
        {"pairs": {"steps": 2, "guidance": 2.0}},
        {"seed": 1},
    ],
)
def test_what_changes_the_images_makes_them_anew(change: dict[str, Any], tmp_path: Path) -> None:
    config = configure(tmp_path)
    save(config, 0)
    read(config)
    save(changed := configure(tmp_path, **change), 0)
    assert read(changed) == [name for name in SETS for _ in range(2)]


def test_another_number_of_steps_in_the_students_folder_makes_its_images_anew(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path)
    save(config, 0)
    read(config)
    (tmp_path / "student" / "more.json").write_text("{}")
    assert read(config) == ["student", "student"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-100],
        lambda whole: (
            whole[:-2000] + bytes(byte ^ 255 for byte in whole[-2000:-1990]) + whole[-1990:]
        ),
        lambda whole: b"",
        lambda whole: b"no archive",
    ],
)
def test_what_is_damaged_is_made_anew(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    config = configure(tmp_path)
    save(config, 0)
    read(config)
    before = figures(config)
    (file,) = (tmp_path / "readouts").glob("*/floor-0-20.npz")
    file.write_bytes(damage(file.read_bytes()))
    assert read(config) == ["floor"]
    assert figures(config) == before


def test_a_folder_that_cannot_be_written_is_told_once_and_gone_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path)
    save(config, 0)
    (tmp_path / "readouts").write_text("in the way")
    assert len(read(config)) == 6 and figures(config)
    told = "evaluate  no more is kept for the next evaluation: cannot write "
    assert capsys.readouterr().out.count(told) == 1


def test_batches_of_another_size_take_the_place_of_these(tmp_path: Path) -> None:
    config = configure(tmp_path)
    save(config, 0)
    read(config)
    larger = {"count": 40, "batch_size": 40, "student": config.evaluate.student}
    assert read(configure(tmp_path, evaluate=larger)) == list(SETS)
    assert len([*(tmp_path / "readouts").glob("*/*")]) == len(SETS)
