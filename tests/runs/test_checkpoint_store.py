"""Checkpoints of a run among what else lies in their folder."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.config import S3Config
from pipeline.data.storage import Storage
from pipeline.runs import checkpoint_store
from pipeline.runs.checkpoint_store import CheckpointStore, Commit, Score
from pipeline.utils.errors import UserError

FILE = "shard-00001-model-00001-of-00001.safetensors"
OURS, OTHER = "ours", "another run"


def new_store(folder: Path, keep: int = 1) -> CheckpointStore:
    return CheckpointStore(Storage(str(folder), S3Config(), "distill.output"), keep)


def write(folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)
    return name


def checkpoint(folder: Path, step: int, attempt: str = "1f2e3d4c", run: str = OURS) -> Commit:
    """Its files, not yet committed."""
    made = f"{step:07d}-{attempt}"
    digest = hashlib.sha256(write(folder, f"{made}/{FILE}").encode()).hexdigest()
    return Commit(step, attempt, run, {FILE: digest})


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
    store.commit(other := checkpoint(tmp_path, 1, "00000000", OTHER))
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


def test_the_best_is_of_scores_of_as_many_images_as_the_newest(tmp_path: Path) -> None:
    store = new_store(tmp_path, keep=9)
    commits = [checkpoint(tmp_path, step) for step in (1, 2, 3, 4)]
    scores = (Score(0.1, 9, None, "pixels"), Score(0.7, 5), Score(0.9, 5), None)
    for commit, score in zip(commits, scores, strict=True):
        store.commit(commit)
        if score:
            store.note(commit, score)
    assert store.best(commits[::-1]) == commits[1]
    assert store.best(commits[:1]) == commits[0] and store.best(commits[3:]) is None


def test_the_best_is_of_scores_in_the_features_of_the_newest(tmp_path: Path) -> None:
    store = new_store(tmp_path, keep=9)
    for step, fd, features in ((1, 0.1, "pixels"), (2, 0.7, "latents"), (3, 0.9, "latents")):
        store.commit(commit := checkpoint(tmp_path, step))
        store.note(commit, Score(fd, 5, None, features))
    assert store.best(store.commits()) == store.commits()[1]


def test_a_checkpoint_of_another_run_takes_no_place_of_ours(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for step in (1, 2):
        store.commit(checkpoint(tmp_path, step))
    store.commit(other := checkpoint(tmp_path, 5, "00000000", OTHER))
    store.note(other, Score(0.1, 5))
    store.commit(checkpoint(tmp_path, 3))
    assert [each.step for each in store.commits(OURS)] == [3]
    assert [each.step for each in store.commits()] == [5, 3]
    assert store.step(OURS) == 3
    with store.newest() as found:
        assert found is not None and found[0] == other


def test_where_all_are_of_another_run_none_is_trained_over(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.commit(other := checkpoint(tmp_path, 5, run=OTHER))
    for look in (store.commits, store.step):
        with pytest.raises(UserError, match=rf"distill\.output: .*{other.name}"):
            look(OURS)


def test_at_the_end_of_a_run_all_that_never_became_a_checkpoint_goes(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.commit(made := checkpoint(tmp_path, 2))
    checkpoint(tmp_path, 9, "0000beef")
    notes = write(tmp_path, "0000009-0000beef/notes.txt")
    (tmp_path / "0000009-0000cafe").mkdir()
    (tmp_path / "empty").mkdir()
    store.finish(OURS)
    assert there(tmp_path) == {f"{made.name}.json", f"{made.name}/{FILE}", notes}
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {made.name, "0000009-0000beef", "empty"}


def test_what_a_kill_kept_beyond_its_number_goes_at_the_end_of_a_run(tmp_path: Path) -> None:
    """Committed, but the earlier ones were not removed any more."""
    store, more = new_store(tmp_path), new_store(tmp_path, keep=9)
    for step in (1, 2, 3):
        more.commit(checkpoint(tmp_path, step))
    more.commit(checkpoint(tmp_path, 2, "00000000", OTHER))
    store.finish(OURS)
    assert [(each.step, each.fingerprint) for each in store.commits()] == [(3, OURS), (2, OTHER)]


def test_json_of_others_is_no_commit(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    notes = {write(tmp_path, name) for name in ("notes.json", "0000001.json", "run.json")}
    assert store.commits() == [] and store.step() == 0
    store.commit(made := checkpoint(tmp_path, 2))
    store.finish(OURS)
    assert there(tmp_path) == notes | {f"{made.name}.json", f"{made.name}/{FILE}"}


DAMAGES = {
    "": None,
    "{": None,
    "[]": None,
    "[" * 100_000: None,
    "step": ["9", 2.5, True, -1, None, [2], 10**30],
    "attempt": [3, "", "../../up", "1f2e3d4", None, ["a"]],
    "fingerprint": [3, None, {}],
    "files": [{}, [], None, {FILE: ""}, {FILE: 3}, {"../up": "0" * 64}, {"/etc/x": "0" * 64}, "x"],
}


@pytest.mark.parametrize("field", DAMAGES)
def test_a_damaged_commit_is_passed_over_and_named(tmp_path: Path, field: str, caplog) -> None:
    for number, value in enumerate(DAMAGES[field] or [None]):
        store = new_store(folder := tmp_path / f"{number}", keep=3)
        store.commit(good := checkpoint(folder, 1))
        damaged = checkpoint(folder, 2)
        text = field if DAMAGES[field] is None else json.dumps({**asdict(damaged), field: value})
        (folder / f"{damaged.name}.json").write_text(text)
        with caplog.at_level(logging.WARNING):
            assert store.commits() == [good]
            assert store.step() == 1
        assert f"{number}/{damaged.name}.json" in caplog.text
        (folder / f"{good.name}.json").unlink()
        with pytest.raises(UserError, match=rf"distill\.output: .*{damaged.name}\.json"):
            store.commits()


def test_a_commit_without_one_of_its_fields_or_under_another_name_is_damaged(tmp_path: Path):
    store = new_store(tmp_path, keep=3)
    store.commit(good := checkpoint(tmp_path, 1))
    fields = asdict(checkpoint(tmp_path, 2))
    for missing in fields:
        kept = {name: value for name, value in fields.items() if name != missing}
        (tmp_path / "0000002-1f2e3d4c.json").write_text(json.dumps(kept))
        assert store.commits() == [good]
    (tmp_path / "0000003-1f2e3d4c.json").write_text(json.dumps(fields))
    assert store.commits() == [good]


def test_a_checkpoint_that_comes_damaged_once_is_read_again(tmp_path: Path, monkeypatch) -> None:
    store = new_store(tmp_path)
    store.commit(made := checkpoint(tmp_path, 2))
    answers, read = iter([b"cut"]), checkpoint_store.file_sha256

    def once(file: Path) -> bytes:
        return next(answers, None) or read(file)

    monkeypatch.setattr(checkpoint_store, "file_sha256", once)
    with store.newest() as found:
        assert found is not None and found[0] == made
