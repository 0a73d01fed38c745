"""Whether an image shows the objects that its prompt names, as many as it says: as GenEval does."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.models.perceptual.features import pinned, weights_checksum
from pipeline.models.precision import full_precision
from pipeline.models.scores.score import transformers_version

SURE, SURE_OF_COUNTS = 0.3, 0.9
"""Confidence above which an object is seen, and where a prompt counts objects."""
_NUMBERS = {
    word: number
    for number, word in enumerate("two three four five six seven eight nine ten".split(), 2)
}
_PLURALS = {"person": "people", "knife": "knives", "mouse": "mice", "sheep": "sheep"}


class Wanted(NamedTuple):
    """How many of an object an image has to show: exactly so many, or at least one."""

    number: int
    exactly: bool


class Objects:
    """A detector of transformers, frozen, as a score: 1 for an image that shows it all, else 0.

    Args:
        model: Of those that `AutoModelForObjectDetection` opens.
        processor: Its own: what images go through before, and detections after.

    Source: Ghosh et al., 2023, arXiv 2310.11513, Section 3; of its tasks one object, two objects
    and counting, with its thresholds. Colours and places are not looked at.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.checksum, self.library = weights_checksum(model), transformers_version()
        self.resize = f"8 bits; as {type(processor).__name__} does"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._processor = processor
        self._numbers = {name.lower(): number for number, name in model.config.id2label.items()}

    def reads(self, prompt: str) -> bool:
        """Whether it names an object that the detector knows."""
        return bool(wanted(prompt, self._numbers))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As a `Score`."""
        levels = ((images.float().clamp(-1, 1).expand(-1, 3, -1, -1) + 1) * 127.5).round()
        pictures = list(levels.to(torch.uint8).cpu())
        inputs = self._processor(images=pictures, return_tensors="pt").to(self._device)
        with full_precision(self._device):
            outputs = self._model(**inputs)
        found = self._processor.post_process_object_detection(outputs, threshold=SURE)
        return torch.tensor(
            [
                self._shows(seen, wanted(prompt, self._numbers))
                for seen, prompt in zip(found, prompts, strict=True)
            ]
        )

    def _shows(self, seen: Mapping[str, Tensor], objects: Mapping[str, Wanted]) -> float:
        if not objects:
            return torch.nan
        sure = SURE_OF_COUNTS if any(each.exactly for each in objects.values()) else SURE
        labels = seen["labels"][seen["scores"] > sure]
        counts = {name: int((labels == self._numbers[name]).sum()) for name in objects}
        return float(
            all(
                counts[name] == each.number if each.exactly else counts[name] >= each.number
                for name, each in objects.items()
            )
        )


def load_objects(weights: str) -> Objects:
    """The share of images that show the objects their prompts name.

    Args:
        weights: A folder of transformers with a detector and its image processor, or
            owner/name@commit on the Hub.

    Raises:
        OSError, ValueError: If it holds no detector, or cannot be read.
    """
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder, source = pinned(weights)
    model = AutoModelForObjectDetection.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, **source
    )
    return Objects(model, AutoImageProcessor.from_pretrained(folder, **source))


def wanted(prompt: str, names: Mapping[str, Any]) -> dict[str, Wanted]:
    """The objects that a prompt names, in one or several, and how many of each.

    "two red dogs" are exactly two; a dog and dogs are at least one. A name right before another is
    a word about it: "an orange cat" is no orange.

    Args:
        prompt: Any.
        names: Of the objects that are known, in lower case.
    """
    known = {form: name for name in names for form in (name, _PLURALS.get(name, _plural(name)))}
    forms = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    number = "|".join((*_NUMBERS, r"\d+"))
    pattern = rf"\b(?:({number})\s+(?:[\w-]+\s+)??)?({forms})\b(?!\s+(?:{forms})\b)"
    found = {}
    for count, form in re.findall(pattern, prompt.lower()):
        exact = _NUMBERS.get(count) or int(count or 1)
        found[known[form]] = Wanted(exact, bool(count))
    return found


def _plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if re.search("[^aeiou]y$", name) else f"{name}s"
