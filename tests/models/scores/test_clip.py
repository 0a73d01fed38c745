"""CLIP score and PickScore, as their public implementations give them for the same images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import EvaluateConfig, S3Config
from pipeline.models.perceptual.features import weights_checksum
from pipeline.models.scores import load_scores
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_scores import PROMPTS, SIDE, images, save_clip


def load(prompts: list[str] | None = PROMPTS, **scores: str | Path) -> Any:
    named = {name: str(weights) for name, weights in scores.items()}
    return load_scores(EvaluateConfig(scores=named), prompts, S3Config())


def test_clip_scores_are_those_of_torchmetrics(tmp_path: Path) -> None:
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPProcessor

    model, levels = save_clip(tmp_path), images(SIDE, SIDE)
    clip = load(clip=tmp_path)["clip"]
    assert clip.checksum == weights_checksum(model)
    ours = clip(levels / 127.5 - 1, PROMPTS)
    assert ours.shape == (6,) and ours.std() > 0.01

    class Model(nn.Module):
        """Gives tensors, as transformers did before version 5."""

        config = model.config

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return _tensor(model.get_image_features(pixels))

        def get_text_features(self, words: Tensor, mask: Tensor) -> Tensor:
            return _tensor(model.get_text_features(words, mask))

    theirs = CLIPScore(lambda: (Model(), CLIPProcessor.from_pretrained(tmp_path)))
    for level, prompt, score in zip(levels, PROMPTS, ours, strict=True):
        theirs.reset()
        theirs.update(level, prompt)
        assert float(theirs.compute()) == pytest.approx(float(score), abs=1e-3)


@pytest.mark.parametrize("size, apart", [((SIDE, SIDE), 1e-3), ((48, 80), 0.05)])
def test_pick_scores_are_those_of_its_model_card(
    tmp_path: Path, size: tuple[int, int], apart: float
) -> None:
    """Of images that are made smaller, up to the 8 bits that Pillow rounds them to."""
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    save_clip(tmp_path)
    levels = images(*size)
    ours = load(pick=tmp_path)["pick"](levels / 127.5 - 1, PROMPTS)
    processor, model = AutoProcessor.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in levels]
    seen = processor(images=pictures, return_tensors="pt")
    said = processor(
        text=PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        image = _tensor(model.get_image_features(**seen))
        text = _tensor(model.get_text_features(**said))
    image, text = (each / each.norm(dim=-1, keepdim=True) for each in (image, text))
    theirs = model.logit_scale.exp() * (text @ image.T).diagonal()
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=apart)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    with pytest.raises(UserError, match=r"evaluate\.scores\.clip: x needs a teacher with prompts"):
        load(None, clip="x")
    with pytest.raises(UserError, match=r"evaluate\.scores\.pick: there is no .*away; name"):
        load(pick=tmp_path / "away")
    with pytest.raises(UserError, match=r"evaluate\.scores\.pick: cannot load .*empty: ") as error:
        (tmp_path / "empty").mkdir()
        load(pick=tmp_path / "empty")
    assert "\n" not in str(error.value)
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    with pytest.raises(UserError, match=r"evaluate\.scores\.pick: .*dino holds .*dinov2, not clip"):
        load(pick=tmp_path / "dino")


def test_scores_are_named_once_and_known() -> None:
    assert EvaluateConfig(clip="x", scores={"pick": "y"}).scored == {"clip": "x", "pick": "y"}
    with pytest.raises(ValueError, match="must be one of clip, pick"):
        EvaluateConfig(scores={"picks": "y"})


def _tensor(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output
