"""Without a terminal: a first line, a last one, and at most one in ten seconds between."""

import io
import sys

import pytest

from pipeline.utils.progress import Progress, duration


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(400, "teacher", "steps") as bar:
        for step in range(400):
            clock.now += 0.0625
            bar.update(1, loss=0.1234567 + step)
    assert capsys.readouterr().out.splitlines() == [
        "teacher  0/400 steps  0%",
        "teacher  160/400 steps  40%  16 steps/s  15 s left  loss 159.1",
        "teacher  320/400 steps  80%  16 steps/s  5 s left  loss 319.1",
        "teacher  400/400 steps  100%  16 steps/s  25 s in all  loss 399.1",
    ]


def test_figures_stay_until_new_ones_come(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "distill", "steps") as bar:
        bar.update(1, loss=0.5)
        bar.update(1)
    assert capsys.readouterr().out.endswith("loss 0.5\n")


def test_rate_counts_only_what_this_run_did(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(5000, "pairs", "pairs", start=4000) as bar:
        clock.now += 10
        bar.update(500)
    assert capsys.readouterr().out.splitlines() == [
        "pairs  4000/5000 pairs  80%",
        "pairs  4500/5000 pairs  90%  50 pairs/s  10 s left",
        "pairs  4500/5000 pairs  90%  50 pairs/s  10 s in all",
    ]


def test_time_left_follows_a_change_of_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(3000, "distill", "steps") as bar:
        for seconds in [0.05] * 1000 + [1.0] * 100:
            clock.now += seconds
            bar.update(1)
    assert "  1 steps/s  32 min left" in capsys.readouterr().out.splitlines()[-2]


def test_failed_job_still_ends_its_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Progress(10, "pairs", "shards") as bar:
        bar.update(3)
        raise RuntimeError
    assert capsys.readouterr().out.splitlines()[-1].startswith("pairs  3/10 shards  30%")


def test_silent_where_not_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "distill", "steps", shown=False) as bar:
        clock.now += 60
        bar.update(10)
    assert capsys.readouterr().out == ""


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", screen)
    with Progress(4, "teacher", "steps") as bar:
        bar.update(4, loss=0.5)
    assert "teacher: 100%" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "loss=0.5" in screen.getvalue()


def test_duration() -> None:
    times = [duration(seconds) for seconds in (0.4, 99, 720, 3 * 3600)]
    assert times == ["0 s", "99 s", "12 min", "3.0 h"]
