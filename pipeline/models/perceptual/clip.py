"""CLIP scores: how well an image fits its prompt."""

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor

from pipeline.config import EvaluateConfig
from pipeline.models.perceptual.features import colours, pinned, resized, weights_checksum
from pipeline.models.precision import full_precision
from pipeline.utils.errors import UserError, first_line

_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A CLIP model of transformers, frozen.

    Args:
        name: Of its folder, or owner/name or owner/name@revision on the Hub.

    Attributes:
        checksum: SHA-256 of all its weights.
        library: What it runs in.

    Source: Hessel et al., 2021, arXiv 2104.08718, Eq. 1, with w = 100 as torchmetrics has it.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        folder, source = pinned(name)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = CLIPModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **source
        )
        self.checksum, self.library = (
            weights_checksum(model),
            f"transformers {version('transformers')}",
        )
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        self.side = int(model.config.vision_config.image_size)
        self.prepare = resized(self.side, *colours(folder, source, _CLIP))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """100 times the cosine of image and prompt, at least 0.

        Args:
            images: (B, 1 or 3, H, W) in about [-1, 1].
            prompts: One for each.

        Returns:
            (B,) float32.
        """
        pixels = images.to(self.device).float().clamp(-1, 1).expand(-1, 3, -1, -1)
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        with full_precision(pixels.device):
            seen = self.model.vision_model(pixel_values=self.prepare(pixels)).pooler_output
            text = self.model.text_model(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).pooler_output
            cosine = torch.cosine_similarity(
                self.model.visual_projection(seen), self.model.text_projection(text)
            )
        return (100 * cosine).clamp(min=0)


def load_clip(evaluate: EvaluateConfig, prompts: Sequence[str] | None) -> Clip | None:
    """The configured model, for a teacher that has prompts.

    Raises:
        UserError: If it cannot be loaded, or there are no prompts to score by.
    """
    if evaluate.clip is None:
        return None
    if prompts is None:
        raise UserError(f"evaluate.clip: {evaluate.clip} needs a teacher with prompts; use null")
    if find_spec("transformers") is None:
        raise UserError("evaluate.clip: it needs transformers: pip install 'ray-dmd[text]'")
    try:
        return Clip(evaluate.clip)
    except Exception as error:
        raise UserError(
            f"evaluate.clip: cannot load {evaluate.clip}: {first_line(error)}"
        ) from error
