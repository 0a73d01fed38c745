"""Images of captions by makers whose answers are known; real networks are in test_captions."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pipeline.diffusion import seeds
from pipeline.evaluation.caption_images import CaptionImages, variety
from pipeline.models.condition import Prompts
from pipeline.utils.errors import UserError

SHAPE = (3, 4, 4)


class Known(Prompts):
    """Numbers of two captions."""

    def __init__(self) -> None:
        pass

    def label(self, caption: str) -> int:
        return ("a cat", "a dog").index(caption)


def network(conditioner: Prompts | None) -> SimpleNamespace:
    return SimpleNamespace(shape=SHAPE, conditioner=conditioner, decode=lambda latents: latents / 2)


def told(noise: Tensor, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return noise + 10 * labels.view(-1, 1, 1, 1)


def test_every_maker_has_the_same_noise_and_captions():
    made = CaptionImages({who: (network(Known()), told) for who in ("student", "teacher")}, 2)
    found = made.images(["a dog", "a cat", "a dog"], seed=3, first=7)
    noise = seeds.noise(3, torch.arange(7, 10), SHAPE, seeds.EVALUATION)
    expected = (noise + torch.tensor([10.0, 0, 10]).view(-1, 1, 1, 1)) / 2
    assert torch.equal(found["student"], expected) and torch.equal(found["teacher"], expected)
    assert made.only("teacher").images(["a cat"], 3, 7).keys() == {"teacher"}


def test_a_network_of_stored_captions_is_refused():
    made = CaptionImages({"student": (network(None), told)}, 2)
    with pytest.raises(UserError, match="evaluate.judged"):
        made.images(["a cat"], 0, 0)


def test_variety_is_one_less_the_cosine_of_two_images_of_one_caption():
    images = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    turned = images[:2].clone()
    turned[1] = -turned[1]
    found = variety(lambda each: each.flatten(1), {"student": images}, {"student": turned})
    assert found["student"]["value"] == pytest.approx((0 + 2) / 2)
    same = variety(lambda each: each.flatten(1), {"student": images}, {"student": images[:3]})
    assert same["student"]["value"] == pytest.approx(0, abs=1e-6)
