"""HPSv2 by OpenCLIP's own network and tokenizer, for the same images and weights."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import save_file

from pipeline.models.scores.hps import load_hps, padded
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_scores import images, save_clip

SIDE = 28
PROMPTS = ["A photo of two cats!", "a dog's bowl", "  the sea at NIGHT, 1970s  "]
SMALL = {"layers": 2, "width": 160, "head_width": 80, "patch_size": 14, "image_size": SIDE}
UNUSED = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    """The library; where torchvision and ftfy are not installed, its networks go without."""
    names = [*UNUSED, "torchvision.ops", "torchvision.ops.misc", "ftfy"]
    absent = [name for name in names if find_spec(name.partition(".")[0]) is None]
    sys.modules.update({name: MagicMock(fix_text=str) for name in absent})
    try:
        import open_clip
    finally:
        for name in absent:
            del sys.modules[name]
    return open_clip


@pytest.fixture(scope="module")
def model(open_clip: ModuleType) -> Any:
    torch.manual_seed(0)
    vision, text = (
        open_clip.CLIPVisionCfg(**SMALL),
        open_clip.CLIPTextCfg(width=64, heads=1, layers=2),
    )
    return open_clip.CLIP(32, vision, text, output_dict=True).eval()


def test_scores_are_those_of_open_clip(open_clip: ModuleType, model: Any, tmp_path: Path) -> None:
    """As `hpsv2.score` calls it, times 100; of a file as published and as safetensors."""
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "HPS_v2.1.pt")
    levels = images(SIDE, SIDE, count=3)
    colours = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    mean, std = (torch.tensor(each)[:, None, None] for each in colours)
    with torch.no_grad():
        found = model((levels / 255 - mean) / std, open_clip.get_tokenizer("ViT-H-14")(PROMPTS))
    theirs = 100 * (found["image_features"] @ found["text_features"].T).diagonal()
    assert theirs.std() > 0.1
    ours = load_hps(str(tmp_path))(levels / 127.5 - 1, PROMPTS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    save_file(model.state_dict(), tmp_path / "same.safetensors")
    again = load_hps(str(tmp_path / "same.safetensors"))(levels / 127.5 - 1, PROMPTS)
    assert torch.equal(again, ours)


def test_a_folder_of_transformers_will_do(tmp_path: Path) -> None:
    clip = save_clip(tmp_path)
    hps, levels = load_hps(str(tmp_path)), images(32, 32)
    assert hps(levels / 127.5 - 1, ["a"] * 6).abs().max() <= 100
    assert hps.resize.endswith("black added") and clip.config.model_type == "clip"


def test_images_are_padded_not_cropped() -> None:
    prepare, _ = padded(20, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = prepare(torch.ones(1, 3, 10, 40))
    assert found.shape == (1, 3, 20, 20)
    expected = torch.ones(1, 3, 5, 20)
    torch.testing.assert_close(found[..., 7:12, :], expected)
    assert (found[..., :7, :] == -1).all() and (found[..., 12:, :] == -1).all()


def test_what_is_no_such_model_is_one_line(model: Any, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds 0 files of weights; name the one to read"):
        load_hps(str(tmp_path / "none"))
    weights = dict(model.state_dict())
    for removed in ("visual.ln_post.weight", "token_embedding.weight"):
        weights.pop(removed)
        save_file(weights, tmp_path / "part.safetensors")
        with pytest.raises(UserError, match="is no ViT-H-14 of OpenCLIP") as error:
            load_hps(str(tmp_path / "part.safetensors"))
        assert "\n" not in str(error.value)
