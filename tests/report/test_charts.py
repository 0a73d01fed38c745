"""Curves: where points, ticks and words are."""

import pytest

from pipeline.report.charts import Chart, Line, short, thin


def chart(points: list[tuple[float, float]], **more: object) -> Chart:
    return Chart("Loss", [Line("a", points, "student")], **more)  # type: ignore[arg-type]


def test_points_are_where_their_values_are() -> None:
    drawn = chart([(0, 0), (5, 50), (10, 100)], zero=True).drawn[0]
    assert [x for x, _ in drawn.points] == [0, 500, 1000]
    ys = [y for _, y in drawn.points]
    assert ys[0] == 1000 and ys[1] == pytest.approx((ys[0] + ys[2]) / 2) and 40 < ys[2] < 80
    assert drawn.path.startswith("M0.0 1000.0L500.0 ")


def test_a_logarithmic_axis_spaces_powers_evenly_and_takes_no_zero() -> None:
    drawn = chart([(0, 0.01), (1, 0.1), (2, 1.0)], log=True).drawn[0]
    ys = [y for _, y in drawn.points]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2])
    linear = chart([(0, 0.0), (1, 1.0)], log=True)
    assert not linear.log and linear.drawn


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "ys", [(0.001, 900.0), (3.0, 3.0), (-1.0, 1e-9), (1e30, 1e31), (0.0, 0.0), (4.0, 7.0)]
)
def test_every_axis_has_a_few_ticks_in_view(ys: tuple[float, float], log: bool) -> None:
    made = chart([(1, ys[0]), (1050, ys[1])], log=log)
    for ticks in (made.y_ticks, made.x_ticks):
        assert 2 <= len(ticks) <= 14
        assert all(-1e-6 <= tick.at <= 100 + 1e-6 for tick in ticks)
        assert len({tick.text for tick in ticks}) == len(ticks)


def test_thinning_keeps_the_extremes() -> None:
    points = [(float(n), 0.0) for n in range(10_000)]
    points[1234] = (1234.0, 9.0)
    points[7777] = (7777.0, -9.0)
    few = thin(points, 400)
    assert len(few) <= 420 and few == sorted(few)
    assert {points[0], points[1234], points[7777], points[-1]} <= set(few)


def test_a_line_breaks_where_values_are_missing() -> None:
    steps = [*range(10), *range(40, 50)]
    points = [(float(step), 1.0) for step in steps]
    assert chart(points).drawn[0].path.count("M") == 2
    whole = Chart("Loss", [Line("a", points, "student", dots=True)])
    assert whole.drawn[0].path.count("M") == 1


def test_one_point_and_none() -> None:
    assert chart([(5, 1.0)]).drawn[0].points == [(0, pytest.approx(500))]
    assert chart([]).lines == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1050, "1,050"),
        (0.01234, "0.0123"),
        (4.5e-5, "4.5e-05"),
        (-3, "-3"),
        (99.96, "100"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_the_words_name_first_and_last() -> None:
    assert chart([(1, 0.5), (9, 0.25)]).summary == (
        "Loss: a goes from 0.5 at step 1 to 0.25 at step 9."
    )
