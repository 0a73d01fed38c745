"""Scores by prompts: from the images of every set to means, differences and intervals."""

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.image_reader import ImageReader, Task
from pipeline.evaluation.scores import (
    diversity,
    diversity_record,
    score_records,
    score_summary,
)
from pipeline.evaluation.statistics import SetStatistics
from tests.fixtures.features import normal

PROMPTS = ["dark", "grey", "light", "nothing"]
COUNT = 40


class Brightness:
    """Near 1 where an image is as bright as its prompt; NaN for the last prompt."""

    checksum, library, resize = "0" * 64, "none", "none"

    def reads(self, prompt: str) -> bool:
        return prompt != "nothing"

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        wanted = torch.tensor([PROMPTS.index(prompt) - 1.0 for prompt in prompts])
        values = 1 - (images.mean((1, 2, 3)) - wanted).abs()
        return values.where(wanted < 2, torch.nan)


class Sets:
    """Images as bright as their prompts: the teacher's and the floor's; the student's less so."""

    teacher = SimpleNamespace(prompts=PROMPTS, latents=None)
    whole_pixels = True

    def __init__(self, *shape: int) -> None:
        self._shape = shape

    def labels(self, name: str) -> Tensor:
        return torch.arange(COUNT) % 4

    def images(self, name: str, numbers: Tensor) -> Tensor:
        missed = {"student": 0.3, "real": 0.0}.get(name, 0.1)
        seed = {"floor": 1}.get(name, 0)
        brightness = (numbers % 4 - 1).float() + missed + 0.01 * normal(COUNT, seed=seed)[numbers]
        return brightness.float().view(-1, *(1 for _ in self._shape)).expand(-1, *self._shape)

    def decoded(self, name: str, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 2, 4, 4)], ids=["images", "videos"])
def test_every_set_is_scored_by_its_own_prompts(shape: tuple[int, ...]) -> None:
    reader = ImageReader(
        Sets(*shape),  # type: ignore[arg-type]
        classifier=None,
        net=None,
        scores={"brightness": Brightness()},
        makers={"evaluate.student": "1"},
    )
    assert reader.weights == {"evaluate.scores.brightness": "0" * 64, "evaluate.student": "1"}
    sets: Any = {}
    for name in ("student", "teacher", "floor", "real"):
        sets[name] = SetStatistics(COUNT, reader.sets.labels(name))
        for first in range(0, COUNT, 7):
            task = Task(name, first, min(first + 7, COUNT))
            sets[name].take(first, reader.read(task).readout)
    record = score_records(sets, reader.scores)["brightness"]
    means = {side: record[side]["value"] for side in ("student", "teacher", "floor", "real")}
    expected = {"student": 0.7, "teacher": 0.9, "floor": 0.9, "real": 1.0}
    assert means == pytest.approx(expected, abs=0.01)
    assert record["other_prompts"]["value"] < 0.5
    assert (record["n"], record["prompts"]) == (30, 3)
    difference = record["difference"]
    assert difference["value"] == pytest.approx(-0.2)
    assert difference["high"] - difference["low"] < 1e-6  # of the same noise
    lines = score_summary({"scores": {"brightness": record}, "diversity": diversity_record(sets)})
    assert [line.split()[0] for line in lines] == ["by", "brightness", "diversity"]


def test_diversity_is_the_mean_over_pairs_of_a_prompt() -> None:
    features, labels = normal(30, 6), torch.arange(30) % 7
    labels[29] = 9  # alone
    found = diversity(features, labels)
    assert found.labels.tolist() == list(range(7))
    for label, value in zip(found.labels, found.values, strict=True):
        same = features[labels == label]
        pairs = [1 - torch.cosine_similarity(a, b, dim=0) for a, b in combinations(same, 2)]
        torch.testing.assert_close(value, torch.stack(pairs).mean())


def test_without_two_images_of_a_prompt_there_is_no_diversity() -> None:
    sets: Any = {}
    for name in ("student", "teacher", "floor"):
        sets[name] = SetStatistics(20, torch.arange(20))
        sets[name].features = normal(20, 3)
    assert diversity_record(sets) is None
