"""The how-to of `docs/pairs.md`: other libraries read a set as it says."""

import re
from pathlib import Path

import numpy as np
import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text()
PIECES = dict(re.findall(r"^With \*\*(\w+)\*\*.*?```python\n(.*?)```", GUIDE, re.S | re.M))


def test_the_how_to_has_all_five_libraries():
    assert set(PIECES) == {"pyarrow", "pandas", "polars", "duckdb", "datasets"}


@pytest.mark.parametrize("library", PIECES)
def test_a_library_reads_the_pairs(library, pairs, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if library == "datasets":
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names = {"folder": str(pairs.folder)}
    exec(PIECES[library], names)  # noqa: S102
    expected = np.concatenate([tiny.batch(tiny.plan(), index).noise for index in range(3)])
    assert np.array_equal(names["noise"], expected)
    assert np.array_equal(names["image"], -expected)
