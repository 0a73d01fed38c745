"""Times of a flow student as settings of a scheduler that is told their number alone."""

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from pipeline.models.even_steps import are_even, even_settings


@pytest.mark.parametrize("trailing", [False, True])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_times_of_any_shift_are_found(shift: float, steps: int, trailing: bool) -> None:
    even = [1 - step / steps for step in range(steps)]
    times = tuple(shift * each / (1 + (shift - 1) * each) for each in even)
    assert are_even(times, 1000, trailing)
    scheduler = FlowMatchEulerDiscreteScheduler(1000, **even_settings(times, 1000, trailing))
    scheduler.set_timesteps(steps, sigmas=even if trailing else None)
    assert scheduler.sigmas.tolist() == pytest.approx([*times, 0.0], abs=2e-6)


@pytest.mark.parametrize("times", [(1.0, 0.757, 0.522), (1.0, 0.9, 0.1), (1.0, 0.01)])
def test_of_three_times_the_second_is_free(times: tuple[float, ...]) -> None:
    assert are_even(times, 1000)


@pytest.mark.parametrize("times", [(0.9,), (0.9, 0.5), (1.0, 0.9, 0.3, 0.2)])
def test_others_are_told_apart(times: tuple[float, ...]) -> None:
    assert not are_even(times, 1000) and not are_even(times, 1000, trailing=True)
