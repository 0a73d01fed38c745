"""What `ray job submit --working-dir .` sends: the code, and little else."""

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package Ray makes of a checkout with a run, data and a repository in it."""
    checkout = tmp_path / "checkout"
    left = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")

    def ignored(folder: str, names: list[str]) -> set[str]:
        return left(folder, names) | ({"runs"} if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, checkout, ignore=ignored)
    for name in ("runs/digits/pairs", "data", ".git", ".venv/lib"):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "large").write_bytes(bytes(2 * 10**6))
    package = tmp_path / "package.zip"
    create_package(
        str(checkout),
        package,
        include_gitignore=True,
        include_parent_dir=False,
        excludes=get_runtime_env_default_excludes(),
    )
    return package


def test_it_holds_every_module_and_little_else(upload: Path) -> None:
    names = set(zipfile.ZipFile(upload).namelist())
    paths = [
        path
        for folder in ("pipeline", "jobs", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {str(path.relative_to(ROOT)) for path in paths} <= names
    assert upload.stat().st_size < 1.1 * sum(path.stat().st_size for path in paths)
    assert not [name for name in names if "large" in name or name.startswith("tests/")]
