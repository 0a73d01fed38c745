"""The judge: right on images it has not seen, the same every time."""

import pytest
import torch

from pipeline.data.images import RealImages, load_images
from pipeline.evaluation import classifier
from pipeline.evaluation.classifier import Classifier, moved, read, train_classifier


@pytest.fixture(scope="module")
def digits() -> RealImages:
    return load_images("digits", 8, None)


@pytest.fixture(scope="module")
def judge(digits: RealImages) -> Classifier:
    return train_classifier(digits.images, digits.labels, digits.classes)


def test_it_is_right_on_held_out_digits(digits: RealImages, judge: Classifier) -> None:
    predicted = read(judge, digits.test_images).logits.argmax(1)
    assert (predicted == digits.test_labels).double().mean() >= 0.97


def test_features_are_64_of_unit_size(digits: RealImages, judge: Classifier) -> None:
    features = read(judge, digits.images).features
    assert features.shape == (len(digits.images), 64)
    assert features.mean().abs() < 0.1
    assert 0.7 < features.std(0).min() and features.std(0).max() < 1.5


def test_batches_change_nothing(digits: RealImages, judge: Classifier) -> None:
    images = digits.test_images
    torch.testing.assert_close(read(judge, images, 7), read(judge, images, 1000))


def test_the_same_images_give_the_same_classifier(
    digits: RealImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the state of the generator, and however many threads the process has."""
    monkeypatch.setattr(classifier, "_steps", lambda count: 5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_classifier(digits.images, digits.labels, 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        second = train_classifier(digits.images, digits.labels, 10)
    finally:
        torch.set_num_threads(threads)
    a, b = (read(network, digits.test_images).logits for network in (first, second))
    assert torch.equal(a, b)


def test_moved_images_stay_images() -> None:
    images = torch.full((50, 1, 8, 8), -1.0)
    images[:, :, 2:6, 2:6] = 1
    result = moved(images, torch.Generator().manual_seed(0))
    assert result.shape == images.shape
    assert result.min() >= -1 and result.max() <= 1 + 1e-6
    assert (result[:, 0, 3, 3] > 0.5).all()
    assert len(result.flatten(1).unique(dim=0)) == 50
