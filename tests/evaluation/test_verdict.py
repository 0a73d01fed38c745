"""Sentences on figures that are given; on students made for it, see test_evaluate."""

import re
from typing import Any

import pytest

from pipeline.evaluation.verdict import verdict


def side(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def evaluation(
    recall: float = 0.9,
    coverage: float = 0.9,
    ratio: float = 1.0,
    closer: float = 0.05,
    teacher_ratio: float = 1.0,
    diversity: float = 0.2,
    real_diversity: float = 0.3,
    caption_diversity: float = 0.2,
    **main: Any,
) -> dict[str, Any]:
    """A good student, all but what is given."""

    def near(ratio: float, closer: float) -> dict[str, Any]:
        return {"ratio": side(ratio), "closer": side(closer)}

    space = {"student": near(ratio, closer), "teacher": near(teacher_ratio, 0.05)}
    figures = {
        name: {"student": side(value), "teacher": side(0.9), "floor": None}
        for name, value in (("recall", recall), ("coverage", coverage))
    }
    metrics = {
        "comparisons": [
            {"reference": {"name": "teacher"}, "n": 10_000, "figures": {"fid": {}}},
            {"reference": {"name": "real"}, "n": 1000, "figures": figures},
        ],
        "neighbours": {"features": space, "pixels": space},
        "diversity": {
            "student": side(diversity),
            "teacher": side(0.2),
            "real": side(real_diversity),
        },
        "caption_diversity": {"seen": {"student": side(caption_diversity), "teacher": side(0.2)}},
        "speed": {"student": {"nfe": 1}, "teacher": {"nfe": 35}},
    }
    usual = {"fd_teacher": 0.02, "fd_floor": 0.01, "fd_real": 0.2, "teacher_fd_real": 0.2}
    usual |= {"accuracy": 0.98, "teacher_accuracy": 0.98, "n_real": 1000, "speedup": 30.0}
    return usual | main | {"metrics": metrics}


def test_a_good_student_is_praised_and_timed() -> None:
    praise, speed = verdict(evaluation())
    assert verdict(evaluation(diversity=0.1, real_diversity=0.1)) == [praise, speed]
    assert praise.startswith("No fault found") and "0.2" in praise
    assert speed == "30 times as fast as its teacher for one image (network calls: 1 against 35)."


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"recall": 0.1}, "Collapsed: .*recall 0.10 against the teacher's 0.90, n 1000"),
        ({"coverage": 0.2}, "Collapsed: .*coverage 0.20"),
        ({"recall": 0.7}, "Less variety than its teacher among the real images .*0.70"),
        ({"diversity": 0.1}, "Less variety .*one prompt or class .*0.10 against 0.20"),
        ({"caption_diversity": 0.1}, "Less variety .*one prompt or class .*0.10 against 0.20"),
        (
            {"ratio": 0.2},
            "Memorising: .* 0.20 times as far .*held-out images are, in features; see",
        ),
        ({"ratio": 0.2, "teacher_ratio": 0.3}, "Memorising: .*so are its teacher's"),
        ({"closer": 0.4}, "Partly memorising: 40%"),
        ({"accuracy": 0.9}, "Wrong classes .*0.900 against 0.980"),
        ({"fd_real": 0.5}, "Further from real images .*0.5 against 0.2, n 1000"),
        ({"teacher_fd_real": 9.0}, "The teacher is much further .*9 against 0.2.*pairs.steps"),
        ({"fd_real": None, "fd_teacher": 0.3}, "Unlike its teacher: .*30 times"),
    ],
)
def test_each_fault_is_called_out_alone(fault: dict[str, Any], said: str) -> None:
    first, *others = verdict(evaluation(**fault))
    assert re.match(said, first), first
    assert len(others) == 1 and "times as fast" in others[0]
