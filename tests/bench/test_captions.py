"""What bench/captions.py compares is equal but for the losses and steps."""

import pytest

from bench.captions import DMD, FOUR, OF_CONFIG, REGRESSION, flat, settings
from pipeline.cli import load


@pytest.mark.parametrize("config", OF_CONFIG)
def test_students_of_one_and_four_steps_get_as_many_updates_by_matching(config: str) -> None:
    def distilled(variant: str):
        return load([f"--config=configs/{config}.yaml", *settings(config, variant)]).distill

    one, four, alone = (distilled(variant) for variant in (DMD, FOUR, REGRESSION))
    third = [each.steps - each.regression_steps - each.burn_in_steps for each in (one, four)]
    assert third[0] == third[1] // four.student.every > 0
    assert four.student.times and four.regression.weight == 0
    assert alone.steps == alone.regression_steps == one.regression_steps
    assert {each.batch_size for each in (one, four, alone)} == {one.batch_size}


def test_the_numbers_of_both_networks_are_told_apart() -> None:
    found = {"recall": 0.5, "verdict": ["good"], "names_seen": {"student": 0.9, "teacher": 1.0}}
    assert dict(flat(found | {"metrics": {"n": 1}})) == {
        "recall": 0.5,
        "names_seen.student": 0.9,
        "names_seen.teacher": 1.0,
    }
