"""The distances are those of torch-fidelity, for fixed features."""

import json

import pytest

from pipeline.evaluation.metrics.frechet import frechet_distance
from pipeline.evaluation.metrics.kernel import kernel_distance
from pipeline.evaluation.metrics.neighbours import support
from tests.evaluation.fidelity_reference import FILE, features
from tests.fixtures.features import by_moments

STORED = json.loads(FILE.read_text())["features"]
SETS = features()


@pytest.mark.parametrize("name", STORED)
def test_agrees_with_torch_fidelity(name: str) -> None:
    real, fake, digest = SETS[name]
    stored = STORED[name]
    found = support(real, fake)
    assert digest == stored["sha256"]
    assert frechet_distance(real, fake) == pytest.approx(
        stored["frechet_inception_distance"], abs=1e-3
    )
    assert by_moments(real, fake) == pytest.approx(stored["frechet_inception_distance"], abs=1e-3)
    assert (float(found.precision.mean()), float(found.recall.mean())) == pytest.approx(
        (stored["precision"], stored["recall"]), abs=1e-3
    )
    kernel = kernel_distance(real, fake, subsets=1, size=len(real))
    assert kernel.mean == pytest.approx(stored["kernel_inception_distance_mean"], abs=1e-3)
