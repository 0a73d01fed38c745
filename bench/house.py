#!/usr/bin/env python3
"""The house rules in numbers: sizes, parameters, Config, private names, imports, tests.

python bench/house.py [--rev COMMIT] [--against COMMIT] [--places]

Reads pipeline/ and the names of the tests, in the work tree or in a commit; --places lists what
each number counts. tests/test_house.py holds the work tree to the bars of `LAWS`.
"""

import argparse
import ast
import io
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_exit"}
"""Public names that begin with an underscore: of named tuples and of `os`."""
ALLOWED = {
    "_attention_backend": (
        "pipeline/models/attention_backend.py",
        "what `set_attention_backend` of diffusers sets, where there is a choice",
    ),
    "_compiled_call_impl": ("pipeline/models/compilation.py", "whether a module is compiled"),
    "_dynamo": (
        "pipeline/models/compilation.py",
        "PyTorch documents its limits and counters there",
    ),
    "_foreach_copy_": (
        "pipeline/training/trained.py",
        "one kernel for all weights; no public name",
    ),
    "_foreach_lerp_": ("pipeline/models/ema.py", "one kernel for all weights; no public name"),
    "_functorch": (
        "pipeline/models/compilation.py",
        "PyTorch documents its `activation_memory_budget` there",
    ),
    "_gradient_checkpointing_func": (
        "pipeline/models/song_unet.py",
        "what `enable_gradient_checkpointing` of diffusers sets; models call it",
    ),
    "_keep_in_fp32_modules": ("pipeline/models/half.py", "diffusers' own list; no public name"),
    "_modules": ("pipeline/models/views.py", "PyTorch has no public way to replace a copy's parts"),
    "_python_dispatch": (
        "pipeline/training/flop_counter.py",
        "as PyTorch documents `TorchDispatchMode`",
    ),
    "_schema": (
        "pipeline/training/flop_counter.py",
        "what an operator changes; no public name",
    ),
    "_scaled_dot_product_efficient_attention": (
        "pipeline/training/attention.py",
        "the kernel as an operator; no public name",
    ),
    "_version": ("pipeline/training/trained.py", "PyTorch's count of changes; no public name"),
}
"""Private name of another library -> the one file that may use it, and the reason."""

SELF = ("self", "cls")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Places = list[str]


class Tree:
    """Files of a commit or of the work tree: path from the root -> text."""

    def __init__(self, files: dict[str, str]):
        self.files = files
        self.modules = {p: ast.parse(files[p]) for p in sorted(files) if p.startswith("pipeline/")}
        self.nodes = [
            (path, each) for path, tree in self.modules.items() for each in ast.walk(tree)
        ]
        found = [(path, node) for path, node in self.nodes if isinstance(node, Function)]
        self.functions = {f"{path}:{node.lineno} {node.name}": node for path, node in found}


def work_tree() -> Tree:
    """The files on disk."""
    files = [path for room in ("pipeline", "tests") for path in (ROOT / room).rglob("*.py")]
    files.append(ROOT / "CONTRIBUTING.md")
    return Tree({path.relative_to(ROOT).as_posix(): path.read_text() for path in files})


def commit(rev: str) -> Tree:
    """The files of a commit."""
    command = ["git", "archive", rev, "pipeline", "tests", "CONTRIBUTING.md"]
    archive = io.BytesIO(subprocess.check_output(command, cwd=ROOT))
    with tarfile.open(fileobj=archive) as tar:
        names = [name for name in tar.getnames() if name.endswith((".py", ".md"))]
        files = {name: tar.extractfile(name) for name in names}
        return Tree({name: file.read().decode() for name, file in files.items() if file})


def function_lines(tree: Tree) -> list[int]:
    """Lines of each function, from `def` to its last."""
    return [(node.end_lineno or 0) - node.lineno + 1 for node in tree.functions.values()]


def parameters(node: Function) -> list[ast.arg]:
    """Of a function or method, without self and cls."""
    every = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
    return [each for each in every if each.arg not in SELF]


def _stored(node: Function) -> bool:
    """Whether its parameters are the keys of a stored `config.json` of diffusers."""
    return "register_to_config" in {ast.unparse(each) for each in node.decorator_list}


def config_parameters(tree: Tree) -> Places:
    """Parameters, and fields of classes, annotated with `Config`: the whole tree of settings."""
    annotated = [(p, each.annotation) for p, f in tree.functions.items() for each in parameters(f)]
    for path, node in tree.nodes:
        if isinstance(node, ast.ClassDef):
            fields = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
            annotated += [(f"{path}:{node.lineno} {node.name}", each) for each in fields]
    return [p for p, each in annotated if each and re.search(r"\bConfig\b", ast.unparse(each))]


def private_names(tree: Tree) -> Places:
    """Private names that pipeline/ uses and defines nowhere, where `ALLOWED` does not say so."""
    ours = {name for _, node in tree.nodes for name in _defined(node)} | DOCUMENTED
    return [
        f"{path}:{getattr(node, 'lineno', '')} {name}"
        for path, node in tree.nodes
        for name in _used(node)
        if re.match("_[^_]", name) and name not in ours and ALLOWED.get(name, "-")[0] != path
    ]


def _used(node: ast.AST) -> list[str]:
    """Attributes that an expression asks for, also by `getattr`, and the words of an import."""
    match node:
        case ast.Attribute(attr=name):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return re.findall(r"\w+", ast.unparse(node))
        case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, name, *_]):
            return re.findall(r"(?<=')\w+", ast.unparse(name))
    return []


def _defined(node: ast.AST) -> list[str]:
    """Names that a statement defines or assigns, and those it gives self."""
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    found = [each for target in targets for each in ast.walk(target)]
    names = [each.id for each in found if isinstance(each, ast.Name) and each.id not in SELF]
    of_self = [each for each in found if isinstance(each, ast.Attribute)]
    return names + [each.attr for each in of_self if ast.unparse(each.value) in SELF]


def import_circles(tree: Tree) -> Places:
    """Groups of modules that import one another, in functions and for type checks too."""
    names = {_module(path) for path in tree.modules}
    reached: dict[str, set[str]] = {name: set() for name in names}
    for path, node in tree.nodes:
        if isinstance(node, ast.Import):
            reached[_module(path)] |= {each.name for each in node.names} & names
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{each.name}" for each in node.names} & names
            reached[_module(path)] |= inside or {str(node.module)} & names
    for middle in names:
        for name in names:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    groups = {frozenset(x for x in reached[name] if name in reached[x]) for name in names}
    return [" <-> ".join(sorted(group)) for group in groups if group]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def top_level(tree: Tree, *kinds: type[ast.stmt]) -> Places:
    """Names that such statements define on the top level of modules, private ones too."""
    body = [(path, node) for path, module in tree.modules.items() for node in module.body]
    kept = [(path, node) for path, node in body if isinstance(node, kinds)]
    return [f"{path}:{node.lineno} {name}" for path, node in kept for name in _defined(node)]


def untested(tree: Tree) -> Places:
    """Modules with code but without tests/ROOM/**/test_NAME.py, or a row in CONTRIBUTING's map.

    A row is `| models/x.py, models/y.py | tests/models/test_z.py |`; its last file must be there.
    """
    text = tree.files["CONTRIBUTING.md"]
    rows = [re.findall(r"[\w/]+\.py", line) for line in text.splitlines() if line[:1] == "|"]
    mapped = {f"pipeline/{name}" for row in rows if row and row[-1] in tree.files for name in row}
    with_code = [path for path, module in tree.modules.items() if len(module.body) > 1]
    return [path for path in with_code if path not in mapped and not _has_test(tree, path)]


def _has_test(tree: Tree, path: str) -> bool:
    parts = _module(path).split(".")
    rooms = ("tests/test_", "/".join(["tests", *parts[1:2], ""]))
    return any(x.startswith(rooms) and x.endswith(f"/test_{parts[-1]}.py") for x in tree.files)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NO_CONFIG = ("pipeline/methods/", "pipeline/models/", "pipeline/diffusion/")
LAWS: dict[str, tuple[float, Callable[[Tree], float | Places]]] = {
    "lines of a function, median": (7, lambda t: median(function_lines(t))),
    "lines of a function, p90": (23, lambda t: quantiles(function_lines(t), n=10)[-1]),
    "lines of a function, most": (80, lambda t: max(function_lines(t))),
    "functions of more than 7 parameters": (
        0,
        lambda t: [p for p, f in t.functions.items() if len(parameters(f)) > 7 and not _stored(f)],
    ),
    "Config as a parameter": (33, config_parameters),
    "Config in methods, models, diffusion": (
        0,
        lambda t: [each for each in config_parameters(t) if each.startswith(_NO_CONFIG)],
    ),
    "private names of other libraries": (0, private_names),
    "import circles": (0, import_circles),
    "files of more than 300 lines": (
        0,
        lambda t: [path for path in t.modules if t.files[path].count("\n") > 300],
    ),
    "loose modules in pipeline/": (
        2,
        lambda t: [p for p in t.modules if p.count("/") == 1 and p != "pipeline/__init__.py"],
    ),
    "modules without a test file": (0, untested),
}
"""Title -> the bar (at most), and what measures a tree: a number, or places to count."""

GOALS: dict[str, tuple[float, Callable[[Tree], float | Places]]] = {
    "functions and classes at top level": (826, lambda t: top_level(t, *_DEFINITIONS)),
    "these and constants at top level": (1098, lambda t: top_level(t, ast.stmt)),
}
"""As `LAWS`, but not reached yet: the table shows them, and no test holds them."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rev", help="commit to measure; by default the work tree")
    parser.add_argument("--against", help="commit to measure beside it")
    parser.add_argument("--places", action="store_true", help="list what is counted")
    asked = parser.parse_args()
    trees = {asked.against: commit(asked.against)} if asked.against else {}
    trees[asked.rev or "work tree"] = commit(asked.rev) if asked.rev else work_tree()
    print(f"{'':40}" + "".join(f"{name:>12}" for name in (*trees, "at most")))
    for title, (bar, measure) in (LAWS | GOALS).items():
        found = [measure(tree) for tree in trees.values()]
        numbers = [len(each) if isinstance(each, list) else each for each in (*found, bar)]
        print(f"{title:40}" + "".join(f"{each:>12g}" for each in numbers))
        if asked.places and isinstance(found[-1], list):
            print("".join(f"    {place}\n" for place in found[-1]), end="")


if __name__ == "__main__":
    main()
