"""The command line all jobs share: YAML file, dotted overrides, help, dry run, exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from pydantic import ValidationError

from pipeline.config import Config, refusals, rules, settings_yaml
from pipeline.utils.errors import StoppedError, UserError, one_line
from pipeline.utils.files import no_empty_folders
from pipeline.utils.uris import absolute

DRY_RUN = "dry-run"
DEFAULT_FILE = "configs/digits.yaml"
"""Config file of a run that names none, neither by --config nor by DMD_CONFIG."""

_WORDS = "words"

Job = Callable[[Config], object]


def main(
    job: Job,
    description: str,
    arguments: Sequence[str] | None = None,
    instead: Mapping[str, Job] = MappingProxyType({}),
    words: str = "",
    writes: Sequence[str] = (),
) -> int:
    """Read the settings, then run a job on them.

    Args:
        job: What to do with the settings.
        description: Its help text.
        arguments: Command line, without the program's name; None means `sys.argv`.
        instead: Name of a flag -> what it does instead of the job; the first line of its
            docstring is the flag's help.
        words: Name of a setting that takes the arguments without a name; none by default.
        writes: Branches of settings whose `output` the job writes: what would be lost with it is
            refused, and a refused job leaves none of them behind empty.

    Returns:
        Exit code: 0 done (or dry run printed), 2 bad input, 130 interrupted. Any other
        exception passes through: a traceback and exit code 1.
    """
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        config, flag = load(description, arguments, instead, words)
        outputs = {
            branch: absolute(getattr(config, branch).output or config.report_file)
            for branch in writes
            if flag not in instead
        }
        for problem in rules.lost_problems(config.run, outputs):
            raise UserError(problem)
        if flag == DRY_RUN:
            from pipeline.stages.plan import plan  # torch: not for --help

            print(
                settings_yaml.dump(config.model_dump(mode="json"))
                + "".join(f"# {line}\n" for line in plan(config)),
                end="",
            )
        else:
            with no_empty_folders([Path(each) for each in outputs.values()]):
                instead.get(flag, job)(config)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        if isinstance(error, StoppedError):
            return 130
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def load(
    description: str,
    arguments: Sequence[str],
    instead: Mapping[str, Job] = MappingProxyType({}),
    words: str = "",
) -> tuple[Config, str]:
    """Read the settings a command line asks for, and its flag: one of `main`, or none, "".

    The command line goes before the YAML file, the file before the defaults.

    Raises:
        UserError: For an unknown key, a wrong value, or a file that cannot be read.
    """
    parser = _parser(description, instead, words)
    parse = parser.parse_known_intermixed_args if words else parser.parse_known_args
    known, unknown = parse(arguments)
    if unknown and not unknown[0].startswith("--"):
        raise UserError(
            f"{unknown[0]}: unexpected argument; write settings as `--distill.steps 500`"
        )
    if unknown:
        raise UserError(refusals.unknown(unknown[0][2:].partition("=")[0], _names()))
    given = vars(known)
    if named := given.pop(_WORDS, None):
        given[words] = named
    path, flag = given.pop("config"), given.pop("flag")
    tree = settings_yaml.read(path or os.environ.get("DMD_CONFIG") or DEFAULT_FILE)
    for key, value in given.items():
        _put(tree, key, value)
    try:
        return Config.model_validate(tree), flag
    except ValidationError as error:
        raise UserError(refusals.line(error.errors()[0], _names())) from None


def settings() -> list[tuple[str, str, dict[str, Any]]]:
    """Name of every leaf of the tree, in order, its group's help and its own JSON schema."""
    tree = Config.model_json_schema()

    def walk(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for key, schema in node["properties"].items():
            if "$ref" not in schema:
                yield prefix + key, node["description"], schema
        for key, schema in node["properties"].items():
            if "$ref" in schema:
                yield from walk(tree["$defs"][schema["$ref"].split("/")[-1]], f"{prefix}{key}.")

    return list(walk(tree, ""))


def _names() -> list[str]:
    return [name for name, _, _ in settings()]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _parser(description: str, instead: Mapping[str, Job], words: str) -> argparse.ArgumentParser:
    flags = {DRY_RUN: "print all settings and the plan, start nothing"}
    for flag, other in instead.items():
        line = (other.__doc__ or "").partition("\n")[0]
        flags[flag] = line[:1].lower() + line[1:].rstrip(".")
    parser = _Parser(
        description=description,
        allow_abbrev=False,
        usage=f"%(prog)s [--config FILE] [{' | '.join(f'--{f}' for f in flags)}] "
        f"[--setting value ...]{' [RUN ...]' if words else ''}",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=38, width=100
        ),
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file of settings; default: $DMD_CONFIG, else {DEFAULT_FILE}",
    )
    if words:
        parser.add_argument(_WORDS, nargs="*", metavar="RUN", help=f"the same as --{words}")
    one = parser.add_mutually_exclusive_group()
    for flag, text in flags.items():
        one.add_argument(
            f"--{flag}", action="store_const", dest="flag", const=flag, default="", help=text
        )
    groups: dict[str, Any] = {}
    for name, title, schema in settings():
        branch = name.rpartition(".")[0] or "all jobs"
        if branch not in groups:
            groups[branch] = parser.add_argument_group(branch, title)
        kind, bounds = _describe(schema)
        default = json.dumps(schema["default"] if schema["default"] != "" else None).strip('"')
        text = f"{schema['description']} [{'; '.join((*bounds, f'default {default}'))}]"
        groups[branch].add_argument(
            *(f"--{option}" for option in (name, schema.get("short")) if option),
            metavar=kind,
            default=argparse.SUPPRESS,
            type=_text if kind == "TEXT" else settings_yaml.parse,
            help=text.replace("%", "%%"),
        )
    return parser


def _describe(schema: dict[str, Any]) -> tuple[str, list[str]]:
    """Give a short name of a leaf's type, and its bounds in words."""
    schema = {**schema, **schema.get("anyOf", [{}])[0]}
    if "$ref" in schema:
        return "MAPPING", []
    if schema["type"] == "array":
        kind, bounds = _describe((schema.get("prefixItems") or [schema["items"]])[0])
        return f"[{kind},...]", [f"each {bound}" for bound in bounds]
    if "enum" in schema:
        return "TEXT", ["one of " + ", ".join(schema["enum"])]
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    bounds = [f"{word} {schema[key]:.10g}" for key, word in words.items() if key in schema]
    if "exclusiveMaximum" in schema:
        bounds.append(f"less than {schema['exclusiveMaximum']:.10g}")
    kinds = {"integer": "INT", "number": "NUMBER", "boolean": "BOOL", "string": "TEXT"}
    kinds["object"] = "MAPPING"
    return kinds[schema["type"]], bounds


def _text(text: str) -> str | None:
    return None if text == "null" else text


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a branch that is no mapping stays, for `Config` to refuse."""
    *groups, leaf = key.split(".")
    branch: Any = tree
    for group in groups:
        branch = branch.setdefault(group, {})
        if not isinstance(branch, dict):
            return
    branch[leaf] = value
