"""Public networks as features, in the layouts that the real ones have."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import EvaluateConfig
from pipeline.models.perceptual import features
from pipeline.models.perceptual.features import load_features, weights_checksum
from pipeline.utils.errors import UserError

IMAGES = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


def config(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig(**settings)


def test_efficientnet_reads_the_weights_of_its_package() -> None:
    net = load_features(config(features="efficientnet-lite0"))
    assert net is not None
    found = net(IMAGES)
    assert found.shape == (3, 1280) and found.std() > 0.05
    assert len(net.checksum) == 64
    assert net.library.startswith("efficientnet-lite-pytorch 0.1")
    torch.testing.assert_close(net(IMAGES[:1]), found[:1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net(IMAGES.expand(-1, 3, -1, -1)), found)


def test_dinov2_is_read_from_a_folder_of_transformers(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 56}
    model = Dinov2Model(Dinov2Config(image_size=224, **small)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    net = load_features(config(features="dinov2", weights=str(tmp_path)))
    assert net is not None and net.checksum == weights_checksum(model)
    whole = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        expected = model(pixel_values=(whole + 1) / 2 / 0.25 - 2).pooler_output
    torch.testing.assert_close(net(whole), expected, rtol=1e-3, atol=1e-4)
    assert net(IMAGES).shape == (3, 24)


def test_inception_takes_bytes_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is torch-fidelity's: a stand-in with its interface, as its torchvision is not."""

    class Extractor(nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str):
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"])
            self.load_state_dict(torch.load(feature_extractor_weights_path), strict=False)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            assert images.dtype == torch.uint8 and images.shape[1:] == (3, 40, 40)
            return (images.float().mean((2, 3)),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(features, "version", lambda package: "0.4.0")
    file = tmp_path / "inception.pth"
    torch.save({"weight": torch.zeros(2)}, file)
    net = load_features(config(features="inception", weights=str(file)))
    assert net is not None and net.library == "torch-fidelity 0.4.0"
    white = net(torch.full((1, 1, 40, 40), 1.2))
    assert white.tolist() == [[255] * 3]
    torch.save(nn.Linear(2, 2), file)  # a pickle that makes objects
    with pytest.raises(UserError, match=r"evaluate\.weights: cannot read .*inception"):
        load_features(config(features="inception", weights=str(file)))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_features(config()) is None
    with pytest.raises(UserError, match=r"evaluate\.weights: dinov2 needs the folder"):
        load_features(config(features="dinov2"))
    with pytest.raises(UserError, match=r"evaluate\.weights: cannot read .*dinov2"):
        load_features(config(features="dinov2", weights=str(tmp_path)))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"inception needs torch-fidelity.*ray-dmd\[fidelity\]"):
        load_features(config(features="inception"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"efficientnet-lite0 needs .*ray-dmd\[efficientnet\]"):
        load_features(config(features="efficientnet-lite0"))
