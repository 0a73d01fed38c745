"""The functions of `pipeline`: as their page says, and importing no more than they need."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.parametrize("name", pipeline.API)
def test_the_page_has_the_function_as_it_is(name):
    function = getattr(pipeline, name)
    page = (ROOT / "docs" / "api.md").read_text().replace("\\|", "|")
    signature = re.sub(r"'|pipeline\.[\w.]+\.", "", str(inspect.signature(function)))
    assert f"| `{name}{signature}` |" in page
    assert function.__doc__ and function.__module__.startswith("pipeline.")


def test_settings_are_loaded_without_a_large_library(tmp_path):
    """From any folder."""
    code = """
import sys
from pipeline import load_config
config = load_config("configs/gaussian.yaml", {"distill.steps": 300, "network": {}})
assert config.distill.steps == 300 and config.distill.sample_every == 200
assert config.network.channels != (16, 32)
assert not {"torch", "ray", "diffusers", "pyarrow"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="nothing"):
        _ = pipeline.nothing


@pytest.mark.cluster
def test_the_notebook_runs_from_first_to_last_cell(ray_cluster, tmp_path, monkeypatch):
    """Its cells share names, as in a kernel; what is in its metrics is in its last figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {}
    for number, source in enumerate(cells("code")):
        exec(compile(source, f"cell {number}", "exec"), names)
    assert names["images"].shape == (12, 1, 8, 8) and names["lines"][-1]["step"] == 60
    first, last = (names["lines"][n]["regression"] for n in (0, -1))
    assert last < first / 2


def test_the_notebook_has_small_outputs_of_the_cells_that_it_has():
    pages = json.loads(NOTEBOOK.read_text())["cells"]
    told = [cell for cell in pages if cell["cell_type"] == "code" and cell["outputs"]]
    assert len(told) >= 5 and NOTEBOOK.stat().st_size < 200_000
    assert not [out for cell in told for out in cell["outputs"] if out["output_type"] == "error"]
    assert "/tmp" not in NOTEBOOK.read_text()


def cells(kind):
    return [
        "".join(c["source"])
        for c in json.loads(NOTEBOOK.read_text())["cells"]
        if c["cell_type"] == kind
    ]
