"""The hooks that look for failures: they change no bit, and do what `distill.on_failure` says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Config
from pipeline.runs import events, roll_back
from pipeline.runs.checkpoint import digest, read_part
from pipeline.runs.checkpoint_store import CheckpointStore, Score
from pipeline.runs.run import PARTS, Run
from pipeline.training import build, detect, hooks, loop
from pipeline.training.detectors import DETECTORS
from pipeline.training.detectors.detector import Detector
from pipeline.training.hooks import Hook, register_hook
from pipeline.training.probe import Prober
from pipeline.utils.errors import UserError
from tests.fixtures.metrics import lines


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(hooks, "HOOKS", dict(hooks.HOOKS))
    monkeypatch.setattr(detect, "DETECTORS", {})


@pytest.fixture
def often(monkeypatch):
    """A probe in every line of the log, whatever it costs, and all detectors."""
    monkeypatch.setattr(detect, "SHARE", 1e3)
    monkeypatch.setattr(detect, "DETECTORS", DETECTORS)


class Broken(Detector):
    """Finds that the student's loss is what the test says, from a step on."""

    needs = ("student_norm",)
    patience = 1
    begins = 7

    def ails(self, found):
        return found[-1]["step"] >= self.begins

    def text(self, found):
        return "broken: lower distill.student.lr"


@pytest.fixture
def broken(monkeypatch):
    detect.DETECTORS["broken"] = type("Again", (Broken,), {})
    return detect.DETECTORS["broken"]


def told(config: Config) -> list[events.Event]:
    kinds = ("finding", "roll_back", "failed")
    return [each for each in events.noted(Path(config.distill.output)) if each.kind in kinds]


def state(config: Config) -> dict[str, str]:
    with Run(config).checkpoints.newest() as found:
        assert found[0].step == config.distill.steps
        return {part: digest(read_part(found[1], part)) for part in PARTS}


def without_probes(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("probe")}


def test_looking_changes_no_bit_and_a_break_no_finding(tiny_run, often):
    """A run ends as one that is not looked at, and is judged the same if it is broken."""
    settings = {"steps": 12, "batch_size": 32, "log_every": 4}
    looked, broken, left = (tiny_run(name, **settings) for name in ("looked", "broken", "left"))
    answers = iter([False, True])
    loop.train(looked)
    assert all("probe_contrast" in row for row in lines(looked))
    loop.train(broken, lambda: next(answers))
    loop.train(broken)
    assert lines(looked) == lines(broken)
    findings = [[(each.detector, each.step) for each in told(run)] for run in (looked, broken)]
    assert findings[0] == findings[1]
    detect.SHARE = 1e-9
    loop.train(left)
    assert state(looked) == state(left) == state(broken)
    assert [*map(without_probes, lines(looked))] == lines(left)


def test_a_failure_is_told_once(tiny_run, broken, caplog):
    config = tiny_run(steps=12)
    loop.train(config)
    (finding,) = told(config)
    assert (finding.kind, finding.detector, finding.step) == ("finding", "broken", 8)
    loop.train(tiny_run(steps=14))
    assert len(told(config)) == 1
    assert caplog.text.count("distill.student.lr") == 1


def test_a_run_that_is_to_stop_stops_until_it_is_to_warn(tiny_run, broken):
    with pytest.raises(UserError, match=r"step 8: broken: .*distill\.on_failure"):
        loop.train(tiny_run(on_failure="stop"))
    config = tiny_run(on_failure="warn")
    assert Run(config).checkpoints.step() == 6
    assert loop.train(config) == 10


@pytest.fixture
def rates() -> dict[int, float]:
    """Step -> the student's learning rate that it was last done with."""
    found: dict[int, float] = {}

    @register_hook("rates")
    class Rates(Hook):
        def __init__(self, distill, training):
            self.rate = training.step.student.rate

        def after_step(self, step, result):
            found[step] = self.rate(step - 1)

    return found


def test_a_run_goes_back_once_and_goes_on_more_slowly(tiny_run, broken, rates):
    config = tiny_run(on_failure="roll_back")
    assert loop.train(config) == 4, "the student did not learn at step 6"
    assert [commit.step for commit in Run(config).commits()] == [4]
    usual, broken.begins = dict(rates), 10
    with pytest.raises(UserError, match="broken"):
        loop.train(config)
    for step in (7, 8):
        assert rates[step] == pytest.approx(roll_back.SLOWER * usual[step])
    finding, back, again, _ = told(config)
    assert (finding.detector, back.kind, back.step, back.reached) == ("broken", "roll_back", 4, 8)
    assert (again.detector, again.step) == ("broken", 10)
    assert [row["step"] for row in lines(config)] == [2, 4, 6, 8, 10]


def test_the_best_sound_checkpoint_is_gone_back_to_or_the_beginning(tiny_run, broken, monkeypatch):
    config, commit = tiny_run(on_failure="roll_back", keep=5), CheckpointStore.commit

    def scored(self, found):
        commit(self, found)
        self.note(found, Score({2: 3.0, 4: 1.0, 6: 2.0}.get(found.step, 0.1), 10))

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "commit", scored)
        assert loop.train(config) == 4
    assert [commit.step for commit in Run(config).commits()] == [4, 2]
    broken.begins = 0
    config = tiny_run("unsound", on_failure="roll_back")
    assert loop.train(config) == 0 and not Run(config).commits()


def test_a_run_killed_while_it_goes_back_goes_back_all_the_same(tiny_run, broken, monkeypatch):
    class Killed(BaseException):
        pass

    def dying(self, names):
        raise Killed

    config, broken.begins = tiny_run(on_failure="roll_back"), 5
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointStore, "drop", dying)
        loop.train(config)
    assert Run(config).step() > 4
    broken.begins = 100
    assert loop.train(config) == 10
    assert [event.step for event in events.noted(Path(config.distill.output))][-2:] == [4, 10]


class Part:
    """What a prober asks of an accelerator: one of so many workers."""

    device = torch.device("cpu")

    def __init__(self, workers: int, rank: int) -> None:
        self.num_processes, self.process_index = workers, rank

    def gather(self, mine):
        return mine


def test_workers_share_a_probe_whatever_their_number(tiny_run):
    config = tiny_run()
    run = build.prepare(config)
    networks = run.state.networks["student"], run.state.networks["critic"]
    whole = run.prober(*networks)
    what = (run.step.method, run.grid.teacher, run.grid.solver, config.distill, config.seed)
    for workers in (3, 7):
        made = [Prober(*what, Part(workers, rank))(*networks) for rank in range(workers)]
        for name in ("student", "teacher", "noise"):
            parts = torch.cat([getattr(each, name) for each in made])
            torch.testing.assert_close(parts[: len(whole.groups)], getattr(whole, name))
