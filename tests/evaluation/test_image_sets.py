"""Where the images of an evaluation are."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.evaluation.image_sets import ImageSets, SetName


@pytest.mark.parametrize("name", ["real", "held_out", "student"])
def test_images_are_decoded_where_the_networks_are(name: SetName) -> None:
    teacher = SimpleNamespace(decode=lambda images: images)
    sets = SimpleNamespace(device=torch.device("meta"), teacher=teacher)
    assert ImageSets.decoded(sets, name, torch.zeros(1, 3, 4, 4)).is_meta  # type: ignore[arg-type]
