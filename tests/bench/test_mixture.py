"""The figures of bench/mixture.py know the exact mixture from others, and its students learn it."""

from dataclasses import replace

import pytest
import torch

from bench import mixture, mixture_methods
from bench.mixture_law import BARS, COUNT, LAW, Law, distance
from bench.mixture_methods import ABLATIONS, METHODS, RIGHT, Rightward
from pipeline.methods.terms.reward import REWARDS
from pipeline.models.critic import Critic
from pipeline.models.denoiser import blank

FLOOR = 0.012
"""Above the distance of two sets of points of one law."""


def drawn(law: Law = LAW) -> torch.Tensor:
    return law.draw(COUNT, torch.Generator().manual_seed(1))


def missed(found: dict[str, float]) -> set[str]:
    return {name for name, bar in BARS.items() if found[name] > bar}


def test_exact_points_keep_all_bars() -> None:
    found = LAW.figures(drawn())
    assert not missed(found)
    assert found["outside"] < 1e-3 and abs(found["width"] - 1) < 0.02
    assert found["wasserstein"] < FLOOR


def test_what_is_wrong_is_found() -> None:
    dropped = LAW.figures(drawn(LAW.weighed((0.5, 0.25, 0.25, 0.0))))
    assert missed(dropped) == set(BARS) and dropped["mass"] == pytest.approx(1, abs=0.01)
    assert missed(LAW.figures(drawn(LAW.moved(0.05)))) == {"mean"}
    narrow = LAW.figures(drawn(LAW.narrowed(0.7)))
    assert narrow["width"] == pytest.approx(0.49, abs=0.01) and narrow["wasserstein"] > 2 * FLOOR
    scattered = drawn()
    scattered[: COUNT // 50] = 0.0
    assert LAW.figures(scattered)["outside"] == pytest.approx(0.02, abs=0.002)


def test_a_tilt_is_that_of_the_density() -> None:
    """Against points of the law that are drawn again by weights exp(s r(x))."""
    tilted, points = LAW.tilted(RIGHT, 3.0), drawn()
    weights = (3.0 * points.flatten(1) @ RIGHT).exp()
    again = torch.multinomial(weights, COUNT, True, generator=torch.Generator().manual_seed(2))
    assert not missed(tilted.figures(points[again])) and missed(LAW.figures(points[again]))
    assert LAW.nearest_tilt(RIGHT, points[again]) == pytest.approx(3.0, abs=0.1)


def test_the_distance_of_moved_points_is_the_move() -> None:
    """Along a direction at angle a it is the move's part cos a, whose mean square is 1/2."""
    points = drawn()
    moved = points + torch.tensor([0.3, 0.0])[:, None, None]
    assert distance(points, moved) == pytest.approx(0.3 / 2**0.5, rel=1e-4)


def test_the_teacher_knows_the_masses() -> None:
    noise = torch.randn(20_000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    share = LAW.statistics(mixture.ode(18)(noise))[2:6]
    torch.testing.assert_close(share, LAW.masses, rtol=0.04, atol=0)


@pytest.mark.parametrize("apart", [False, True])
def test_heads_with_layers_of_their_own_teach_no_other(apart: bool) -> None:
    network = mixture.Planar()
    critic = Critic(network.with_judged_layers() if apart else network)
    critic.logits(blank(network, 3)).sum().backward()
    taught = {
        name for name, weight in critic.denoiser.named_parameters() if weight.grad is not None
    }
    assert {name.split(".")[0] for name in taught} == {"judged" if apart else "layers"}


def test_a_point_is_judged_by_the_same_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ differ in what marks them, so that no figure stands for another's."""
    monkeypatch.setitem(REWARDS, "rightward", Rightward)
    every = METHODS | ABLATIONS
    assert len({method.mark for method in every.values()}) == len(every)


@pytest.mark.parametrize(
    ("name", "updates"), [("DMD1", 160), ("GAN, k = 1, heads on layers of their own", 20)]
)
def test_a_student_learns(name: str, updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few updates: regression brings it nearer, and heads may have layers of their own."""
    monkeypatch.setattr(mixture_methods, "UPDATES", updates)
    monkeypatch.setattr(mixture_methods, "BURN_IN", 5)
    monkeypatch.setattr(mixture, "beginning", lambda seed: mixture.Planar())
    method = replace(METHODS["DMD1"], regression=150) if name == "DMD1" else ABLATIONS[name]
    noise = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    student = mixture.train(method, 0)
    with torch.no_grad():
        points = student(noise)
    assert points.isfinite().all()
    if name == "DMD1":
        there = mixture.ode(64)(noise)
        assert (points - there).square().mean() < 0.5 * there.square().mean()
