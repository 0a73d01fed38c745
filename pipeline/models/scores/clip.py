"""CLIP score and PickScore: how well an image fits its prompt, and how well people like it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.perceptual.features import colours, normalised, pinned, weights_checksum
from pipeline.models.precision import full_precision
from pipeline.models.scores.score import transformers_version
from pipeline.utils.errors import UserError

OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of colours in [0, 1] that CLIP was trained with."""

Formula = Callable[[Any], Callable[[Tensor], Tensor]]
Prepared = Callable[..., tuple[Callable[[Tensor], Tensor], str]]


class Clip:
    """A CLIP model of transformers, frozen, and what a score makes of its cosines.

    Args:
        model: A `CLIPModel`.
        tokenizer: Its own.
        prepare: From images, (B, 3, H, W) in [-1, 1], to what the model reads.
        resize: What that does, in words.
        formula: From cosines, (B,), to scores.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prepare: Callable[[Tensor], Tensor],
        resize: str,
        formula: Callable[[Tensor], Tensor],
    ) -> None:
        self.checksum, self.library = weights_checksum(model), transformers_version()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._tokenizer, self._prepare, self._formula = tokenizer, prepare, formula
        self.resize = resize

    def reads(self, prompt: str) -> bool:
        """It reads every prompt."""
        return True

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As a `Score`."""
        pixels = images.to(self._device).float().clamp(-1, 1).expand(-1, 3, -1, -1)
        longest = self._model.config.text_config.max_position_embeddings
        words = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        with full_precision(pixels.device):
            seen = self._model.vision_model(pixel_values=self._prepare(pixels)).pooler_output
            text = self._model.text_model(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).pooler_output
            cosine = torch.cosine_similarity(
                self._model.visual_projection(seen), self._model.text_projection(text)
            )
        return self._formula(cosine)


def cropped(side: int, mean: Any, std: Any) -> tuple[Callable[[Tensor], Tensor], str]:
    """Bring the shorter side of images in [-1, 1] to so many pixels, crop the centre, normalise."""

    def prepare(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        short = min(height, width)
        size = side * height // short, side * width // short
        top, left = ((each - side) // 2 for each in size)
        images = scaled_to(images, size)[..., top : top + side, left : left + side]
        return normalised(images, mean, std)

    return prepare, f"bicubic with antialiasing, the shorter side to {side}, centre-cropped"


def load_clip(weights: str) -> Clip:
    """CLIP score: 100 times the cosine of image and prompt, at least 0.

    Args:
        weights: A folder of transformers, or owner/name@commit on the Hub.

    Raises:
        UserError: If it holds another kind of model.
        OSError: If it cannot be read.

    Source: Hessel et al., 2021, arXiv 2104.08718, Eq. 1, with w = 100 as torchmetrics has it.
    """
    return of_folder(weights, lambda model: lambda cosine: (100 * cosine).clamp(min=0))


def load_pick(weights: str) -> Clip:
    """PickScore: the cosine times the model's own scale, about 100.

    Args:
        weights: As of `load_clip`; the published ones are yuvalkirstain/PickScore_v1.

    Raises:
        UserError: If it holds another kind of model.
        OSError: If it cannot be read.

    Source: Kirstain et al., 2023, arXiv 2305.01569, Eq. 1 (s).
    """
    return of_folder(weights, lambda model: lambda cosine: model.logit_scale.exp() * cosine)


def of_folder(weights: str, formula: Formula, prepared: Prepared = cropped) -> Clip:
    """A score by a `CLIPModel` of transformers.

    Args:
        weights: As of `load_clip`, with the same errors.
        formula: From the model to what makes scores of cosines, (B,).
        prepared: From the model's side, mean and deviation to what brings images to it, in words
            too.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    folder, source = pinned(weights)
    kind = AutoConfig.from_pretrained(folder, **source).model_type
    if kind != "clip":
        raise UserError(f"{weights} holds a {kind}, not clip; name the folder of a CLIPModel")
    model = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **source)
    prepare, resize = prepared(
        int(model.config.vision_config.image_size), *colours(folder, source, OPENAI)
    )
    words = AutoTokenizer.from_pretrained(folder, **source)
    return Clip(model, words, prepare, resize, formula(model))


def scaled_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of another height and width, bicubic with antialiasing."""
    if images.shape[2:] == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", antialias=True)
