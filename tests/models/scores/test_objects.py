"""Objects that prompts name: what is read from a prompt, and what a detector sees of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import EvaluateConfig, S3Config
from pipeline.models.scores import load_scores
from pipeline.models.scores.objects import Objects, Wanted, load_objects, wanted
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_scores import images, save_clip, save_detector

NAMES = ("person", "bench", "dog", "cat", "orange", "teddy bear", "bear", "wine glass", "bus")
ONE = Wanted(1, False)


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a photo of a bench", {"bench": ONE}),
        ("A photo of a Dog and two benches", {"dog": ONE, "bench": Wanted(2, True)}),
        ("three people, 4 red wine glasses", {"person": Wanted(3, True), "wine glass": (4, True)}),
        ("an orange cat right of a teddy bear", {"cat": ONE, "teddy bear": ONE}),
        ("an orange", {"orange": ONE}),
        ("two people and dogs", {"person": Wanted(2, True), "dog": ONE}),
        ("two buses", {"bus": Wanted(2, True)}),
        ("business as usual, a category of doghouses", {}),
    ],
)
def test_a_prompt_names_objects_and_counts(prompt: str, expected: dict[str, Any]) -> None:
    assert wanted(prompt, dict.fromkeys(NAMES)) == expected


class Seen(nn.Module):
    """A detector that has seen these: for each image (name, confidence)."""

    def __init__(self, *seen: list[tuple[str, float]]) -> None:
        super().__init__()
        self.config, self._seen = SimpleNamespace(id2label=dict(enumerate(NAMES))), seen

    def forward(self, **_: Tensor) -> Any:
        return self._seen


class Processor:
    def __call__(self, images: list[Tensor], return_tensors: str) -> Any:
        assert all(image.dtype == torch.uint8 for image in images)
        return SimpleNamespace(to=lambda device: {})

    def post_process_object_detection(self, outputs: Any, threshold: float) -> Any:
        kept = [[each for each in seen if each[1] > threshold] for seen in outputs]
        return [
            {
                "labels": torch.tensor([NAMES.index(name) for name, _ in seen]),
                "scores": torch.tensor([sure for _, sure in seen]),
            }
            for seen in kept
        ]


def test_an_image_shows_all_and_as_many_as_its_prompt_says() -> None:
    """By GenEval's rules: a count is exact and needs 0.9, all else is seen from 0.3 on."""
    dogs = [("dog", 0.95), ("dog", 0.93), ("dog", 0.5)]
    cases = [
        ("a dog", [("dog", 0.31)], 1),
        ("a dog", [("dog", 0.29), ("cat", 0.9)], 0),
        ("a dog and a cat", [("dog", 0.9)], 0),
        ("a dog and a cat", [("dog", 0.9), ("cat", 0.4), ("cat", 0.4)], 1),
        ("two dogs", dogs, 1),
        ("three dogs", dogs, 0),
        ("two dogs", [*dogs, ("dog", 0.91)], 0),
        ("two dogs and a cat", [*dogs, ("cat", 0.5)], 0),
    ]
    objects = Objects(Seen(*(seen for _, seen, _ in cases)), Processor())
    found = objects(torch.zeros(len(cases), 1, 4, 4), [prompt for prompt, _, _ in cases])
    assert found.tolist() == [expected for _, _, expected in cases]
    assert objects(torch.zeros(8, 1, 4, 4), ["the sea"] * 8).isnan().all()


def test_detections_are_those_of_transformers_own_pipeline(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import pipeline

    save_detector(tmp_path, *NAMES)
    objects, levels = load_objects(str(tmp_path)), images(48, 40)
    detect = pipeline("object-detection", model=str(tmp_path), threshold=0.3)
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in levels]
    seen = [{each["label"] for each in found} for found in detect(pictures)]
    assert 0 < sum(map(len, seen)) < len(NAMES) * len(levels)
    for name in NAMES:
        shows = objects(levels / 127.5 - 1, [f"a {name}"] * len(levels))
        assert shows.tolist() == [float(name in each) for each in seen]


def test_what_says_nothing_of_the_prompts_is_one_line(tmp_path: Path) -> None:
    save_detector(tmp_path / "detector", *NAMES)
    save_clip(tmp_path / "clip")
    for folder, expected in (("detector", "it reads none of teacher.prompts"), ("clip", "cannot")):
        settings = EvaluateConfig(scores={"objects": str(tmp_path / folder)})
        with pytest.raises(UserError, match=rf"evaluate\.scores\.objects: {expected}") as error:
            load_scores(settings, ["the sea"], S3Config())
        assert "\n" not in str(error.value)
