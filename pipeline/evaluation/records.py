"""What `evaluation.json` says under `metrics` of figures, features and reference."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.data.crop import PREPARATION
from pipeline.evaluation.classifier import FEATURES
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.image_reader import ImageReader
from pipeline.evaluation.real import RealSet
from pipeline.evaluation.reference import Reference
from pipeline.models.perceptual.features import weights_checksum


def comparison_records(
    comparisons: list[Comparison], reference: dict[str, str]
) -> list[dict[str, Any]]:
    """Comparisons as `evaluation.json` has them: one reference and one n each."""
    return [
        {
            "reference": reference,
            "n": comparison.n,
            "figures": {
                name: {
                    "library": _versions(*figure.packages),
                    "student": None,
                    "teacher": None,
                    "floor": None,
                }
                | {side: estimate._asdict() for side, estimate in figure.sets.items()}
                for name, figure in comparison.figures.items()
            },
        }
        for comparison in comparisons
    ]


def real_reference(real: RealSet) -> dict[str, str]:
    """What tells the real images of a comparison from others."""
    against = {} if real.conditions is None else {"against": real.conditions}
    return {"name": "real", "fingerprint": real.fingerprint, **against}


def reference_record(real: RealSet | None) -> dict[str, Any] | None:
    """Which images of `evaluate.reference` were compared; None without."""
    if not isinstance(real, Reference):
        return None
    return {
        "images": real.total,
        "damaged": real.damaged,
        "n": len(real.samples),
        "preparation": f"{PREPARATION} to {real.pixels[2]}x{real.pixels[1]}",
        "against": real.conditions,
    }


def features_record(reader: ImageReader, data: str | None) -> dict[str, str | None]:
    """What the images are compared in.

    Args:
        reader: What reads them.
        data: Name of the images that its classifier was trained on.
    """
    if (net := reader.net) is not None:
        return _features(net.name, net.library, net.checksum, net.resize)
    if reader.classifier is not None:
        return _features(
            f"classifier of {data}, {FEATURES} features",
            _versions("ray-dmd", "torch"),
            weights_checksum(reader.classifier),
        )
    return _features("pixels" if reader.sets.teacher.latents is None else "latents")


def _features(
    name: str, library: str | None = None, checksum: str | None = None, resize: str = "none"
) -> dict[str, str | None]:
    return {"name": name, "library": library, "checksum": checksum, "resize": resize}


def _versions(*packages: str) -> str:
    def named(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:  # run from a copy of the checkout
            return package

    return ", ".join(map(named, packages))
