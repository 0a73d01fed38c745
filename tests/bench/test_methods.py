"""What bench/methods.py compares is equal but for the method."""

import pytest

from bench.methods import DATA, METHODS, change, following, starting


@pytest.mark.parametrize("data", DATA)
def test_every_student_gets_as_many_updates(data: str) -> None:
    before = starting(data, 0).distill.regression_steps
    updates = set()
    for name, method in METHODS.items():
        distill = following(data, 0, name).distill
        assert distill.student.every == method.critic_steps
        third = (distill.steps - distill.burn_in_steps) // distill.student.every
        updates.add(third + before * method.pairs)
    assert len(updates) == 1


def test_a_change_is_that_of_the_seeds_that_have_both() -> None:
    before = {str(seed): {"fd_real": value} for seed, value in enumerate((0.5, 0.2, 0.3))}
    after = {str(seed): {"fd_real": value} for seed, value in enumerate((0.4, 0.2))}
    assert change(before, after, "fd_real") == "-0.05 ± 0.05 (2 seeds)"
    assert change(before, after, "recall") == "not measured"
