"""What is kept of a stream: the same for any batches in any order."""

import torch
from torch import Tensor

from pipeline.evaluation.metrics.moments import Moments
from pipeline.evaluation.statistics import GROUPS, KEPT, Readout, SetStatistics


def rows(features: Tensor) -> Readout:
    numbers = torch.arange(len(features))
    sure, scores = features[:, 0], features[:, :1]
    return Readout(features, 2 * features, numbers.to(torch.int16), sure, scores, scores[:, :0])


def filled(features: Tensor, labels: Tensor | None, batches: list[Tensor]) -> SetStatistics:
    found = SetStatistics(len(features), labels, whole_pixels=True)
    for batch in batches:
        found.take(int(batch[0]), rows(features[batch]))
    return found


def test_batches_in_any_order_give_the_same() -> None:
    features, labels = torch.randn(700, 4), torch.arange(700) % 10
    one = filled(features, labels, [torch.arange(700)])
    many = filled(features, labels, list(torch.arange(700).split(33))[::-1])
    assert torch.equal(one.features, features) and torch.equal(many.features, features)
    assert torch.equal(many.pixels, 2 * features)
    for a, b in zip(one.feature_set().parts, many.feature_set().parts, strict=True):
        torch.testing.assert_close(a.scatter, b.scatter)
    together = Moments.together(many.feature_set().parts)
    torch.testing.assert_close(together.mean, features.double().mean(0))
    assert many.pixel_moments is not None
    torch.testing.assert_close(many.pixel_moments.scatter, 4 * together.scatter)


def test_parts_of_large_sets_are_of_one_size_whatever_is_kept_of_each() -> None:
    """Of training images all features are kept, to look for neighbours among them."""
    features, labels = torch.randn(KEPT + 4000, 3), torch.arange(KEPT + 4000) % 10
    whole, cut = (SetStatistics(len(features), labels, kept) for kept in (None, KEPT))
    for found in (whole, cut):
        found.take(0, rows(features))
    half = range(GROUPS // 2)
    assert torch.equal(whole.feature_set(half).kept, cut.feature_set(half).kept)
    assert len(whole.features) == len(features) and len(whole.feature_set().kept) == KEPT


def test_of_a_large_set_only_the_first_are_kept() -> None:
    features = torch.randn(KEPT + 2000, 3)
    found = filled(features, None, list(torch.arange(len(features)).split(999)))
    assert torch.equal(found.features, features[:KEPT])
    assert torch.equal(found.scores, features[:, :1]) and found.others.shape == (len(features), 0)
    assert len(found.pixels) == KEPT and len(found.predicted) == KEPT + 2000
    assert Moments.together(found.feature_set().parts).count == KEPT + 2000


def test_parts_are_alike_in_size_and_classes() -> None:
    labels = torch.tensor([0] * 331 + [1] * 167)
    found = SetStatistics(498, labels)
    sizes = found.groups.bincount(minlength=GROUPS)
    ones = found.groups[labels == 1].bincount(minlength=GROUPS)
    assert sizes.max() - sizes.min() <= 1 and ones.max() - ones.min() <= 1
    assert not torch.equal(found.groups, torch.arange(498) % GROUPS)
