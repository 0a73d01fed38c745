"""Checkpoints of a run among what else lies in their folder."""

import logging
from pathlib import Path

import pytest

from pipeline.config import S3Config
from pipeline.data.storage import Storage
from pipeline.runs.checkpoint_store import CheckpointStore, Commit, Score

FILE = "shard-00001-model-00001-of-00001.safetensors"


def new_store(folder: Path, keep: int = 1) -> CheckpointStore:
    return CheckpointStore(Storage(str(folder), S3Config(), "distill.output"), keep)


def write(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)
    return name


def checkpoint(folder: Path, step: int, attempt: str = "1f2e3d4c", run: str = "ours") -> Commit:
    """Its files, not yet committed."""
    made = Commit(step, attempt, run, {FILE: "sum"})
    write(folder, f"{made.name}/{FILE}")
    return made


def there(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_removed_is_the_runs_own(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    foreign = {
        write(tmp_path, name)
        for name in (
            *("0-notes/a.txt", "0000004-backup/" + FILE, "0000001-1f2e3d4c.bak", "README.md"),
            *("0000001-1f2e3d4c/mine.txt", "0000000-1f2e3d4/" + FILE, "a.safetensors"),
        )
    }
    store.commit(other := checkpoint(tmp_path, 1, "00000000", "another run"))
    foreign |= {f"{other.name}.json", f"{other.name}/{FILE}"}
    for step in (1, 2, 3):
        store.commit(checkpoint(tmp_path, step))
    own = {"0000003-1f2e3d4c.json", f"0000003-1f2e3d4c/{FILE}"}
    assert there(tmp_path) == foreign | own


def test_what_never_became_a_checkpoint_is_removed_with_the_next(tmp_path: Path) -> None:
    store = new_store(tmp_path, keep=2)
    checkpoint(tmp_path, 1, "0000dead")
    later = checkpoint(tmp_path, 9, "0000beef")
    store.commit(checkpoint(tmp_path, 2))
    assert there(tmp_path) == {
        *(f"{later.name}/{FILE}", "0000002-1f2e3d4c.json", f"0000002-1f2e3d4c/{FILE}"),
    }


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"fd_teacher": "near", "n": 5}', "{}"])
def test_a_damaged_score_is_none(tmp_path: Path, damage: str, caplog) -> None:
    store = new_store(tmp_path, keep=3)
    commits = [checkpoint(tmp_path, step) for step in (1, 2)]
    for commit, distance in zip(commits, (0.5, 0.7), strict=True):
        store.commit(commit)
        store.note(commit, Score(distance, 5))
    assert store.best(commits) == commits[0]
    (tmp_path / f"{commits[0].name}.score").write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert store.best(commits) == commits[1]
    assert "0000001-1f2e3d4c.score is damaged" in caplog.text
