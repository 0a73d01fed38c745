"""The options of a job's command line, and its help."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NoReturn

from pipeline.cli.job import Job
from pipeline.config import Config, refusals, settings_yaml
from pipeline.config.distill import term_settings
from pipeline.utils.errors import UserError

DRY_RUN = "dry-run"
HELP, HELP_ALL = "help", "help-all"
CONFIG = "config"
TERMS = "distill.terms"
_FLAG, _WORDS = "flag", "words"
_GENERAL = "all jobs"
_FILE = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "fish": "(__fish_complete_path (commandline -ct))",
}
"""As in `shtab.FILE`: shells complete it as a file."""
_WIDTH, _COLUMN = 100, 38


def parse(
    job: Job, arguments: Sequence[str], prog: str | None = None
) -> tuple[dict[str, Any], str]:
    """Give the settings that a command line names, with its `CONFIG` or None, and its flag or "".

    Raises:
        UserError: For an unknown option, or one without its value.
        SystemExit: After help is printed.
    """
    own = parser(job, prog)
    for name in sorted(_within_mappings(arguments)):
        own.add_argument(f"--{name}", default=argparse.SUPPRESS, type=_value)
    reader = own.parse_known_intermixed_args if job.words else own.parse_known_args
    known, unknown = reader(arguments)
    if unknown and not unknown[0].startswith("--"):
        raise UserError(
            f"{unknown[0]}: unexpected argument; write settings as `--distill.steps 500`"
        )
    if unknown:
        flags = (CONFIG, HELP, HELP_ALL, DRY_RUN, *job.instead)
        raise UserError(refusals.unknown(unknown[0][2:].partition("=")[0], [*names(), *flags]))
    given = vars(known)
    flag = given.pop(_FLAG)
    if flag == HELP_ALL:
        parser(job, prog, everything=True).print_help()
        raise SystemExit(0)
    if named := given.pop(_WORDS, None):
        given[job.words] = named
    return given, flag


@cache
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


def names() -> list[str]:
    """Of all settings, dotted; of further terms too, where one is registered."""
    terms = {f"{TERMS}.{name}": each.model_fields for name, each in term_settings().items()}
    own = [name for name, _, _ in settings()]
    return own + [f"{term}.{name}" for term, fields in terms.items() for name in fields]


def _within_mappings(arguments: Sequence[str]) -> set[str]:
    """Names of what is given one by one of a setting that is a mapping, such as a term's weight."""
    given = {word[2:].partition("=")[0] for word in arguments if word.startswith("--")}
    mappings = [f"{name}." for name, _, schema in settings() if kind_of(schema) == "MAPPING"]
    return {name for name in given if name.startswith(tuple(mappings))}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        option, _, problem = message.removeprefix("argument ").partition(": ")
        names = option.split("/")
        if problem == "expected one argument":
            problem = f"no value is given; write {names[0]} VALUE"
        elif problem.startswith("ignored explicit argument"):
            problem = f"{problem.split()[-1]} is given, but it takes no value; write {names[-1]}"
        elif problem.startswith("not allowed with argument"):
            problem = f"does not go with {problem.split()[-1]}; give one of them"
        raise UserError(f"{names[-1].lstrip('-')}: {problem}")


def parser(job: Job, prog: str | None = None, everything: bool = False) -> argparse.ArgumentParser:
    """A parser of all settings, whose help explains those that the job reads, or all."""
    flags = "".join(f" [--{name}]" for name in (*job.instead, DRY_RUN))
    made = _Parser(
        prog=prog,
        description=job.help,
        allow_abbrev=False,
        add_help=False,
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]"
        + (" [RUN ...]" if job.words else "")
        + flags,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=_COLUMN, width=_WIDTH
        ),
    )
    if job.words:
        made.add_argument(_WORDS, nargs="*", metavar="RUN", help=f"The same as --{job.words}.")
    groups: dict[str, Any] = {_GENERAL: made.add_argument_group(_GENERAL)}
    _add_flags(groups[_GENERAL], job)
    hidden: dict[str, list[str]] = {}
    for name, title, schema in sorted(settings(), key=lambda each: _rank(job, each[0])):
        branch, _, leaf = name.rpartition(".")
        shown = everything or not branch or branch in job.reads or name in job.reads
        if not shown and _rank(job, name) < len(job.reads):
            hidden.setdefault(branch, []).append(leaf)
        branch = branch or _GENERAL
        if branch not in groups:
            groups[branch] = made.add_argument_group(branch, title if shown else None)
        _add_setting(groups[branch], name, schema, shown, everything)
    made.epilog = _end(made.prog, job, {} if everything else hidden)
    return made


def _add_flags(group: Any, job: Job) -> None:
    file = group.add_argument(
        f"--{CONFIG}",
        metavar="FILE",
        help="YAML file of settings; without it that of DMD_CONFIG, else the one that the folder "
        "--run keeps, else configs/digits.yaml.",
    )
    file.complete = _FILE
    one = group.add_mutually_exclusive_group()
    one.add_argument("-h", f"--{HELP}", action="help", help="Show this page.")
    for flag, text in {
        HELP_ALL: "Show all settings in full, those of other jobs too. [] has defaults.",
        DRY_RUN: "Print the plan, missing inputs, jobs in order and all settings; start nothing.",
        **{name: each.help for name, each in job.instead.items()},
    }.items():
        one.add_argument(
            f"--{flag}", action="store_const", dest=_FLAG, const=flag, default="", help=text
        )


def _rank(job: Job, name: str) -> int:
    """Where the help has a setting: the general first, then what the job reads, then the rest."""
    if "." not in name:
        return -1
    places = (n for n, read in enumerate(job.reads) if f"{name}.".startswith(f"{read}."))
    return next(places, len(job.reads))


def _add_setting(group: Any, name: str, schema: dict[str, Any], shown: bool, whole: bool) -> None:
    kind, bounds = _describe(schema)
    default = json.dumps(schema["default"] if schema["default"] != "" else None).strip('"')
    if whole:
        text = f"{schema['description']} [{'; '.join((*bounds, f'default {default}'))}]"
    else:
        end = f" [{default}]" if schema["default"] and len(default) < _COLUMN else ""
        text = textwrap.shorten(
            schema["description"], _WIDTH - _COLUMN - len(end), placeholder=" ..."
        )
        text += end
    group.add_argument(
        *(f"--{option}" for option in (name, schema.get("short")) if option),
        metavar=kind,
        default=argparse.SUPPRESS,
        type=_text if kind == "TEXT" else _value,
        help=text.replace("%", "%%") if shown else argparse.SUPPRESS,
    )


def _end(prog: str, job: Job, hidden: dict[str, list[str]]) -> str:
    """Names that the job reads too, and examples."""
    lines = [f"more, explained by --{HELP_ALL}:"] if hidden else []
    for branch, leaves in hidden.items():
        start = f"  --{branch}."
        lines += textwrap.wrap(
            ", ".join(leaves),
            _WIDTH,
            initial_indent=f"{start:<{_COLUMN}}",
            subsequent_indent=" " * _COLUMN,
        )
    examples = [f"  {prog} {each}" for each in job.examples]
    return "\n".join([*lines, *([""] if lines else []), "examples:", *examples])


def kind_of(schema: dict[str, Any]) -> str:
    """What a setting takes, as the help calls it: INT, NUMBER, [INT,...], TEXT, MAPPING, ..."""
    return _describe(schema)[0]


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
    return None if _given(text) == "null" else text


def _value(text: str) -> Any:
    return settings_yaml.parse(_given(text))


def _given(text: str) -> str:
    """The same; of a variable of the shell that is not set nothing is given."""
    if not text.strip():
        raise argparse.ArgumentTypeError("its value is empty; write null for none")
    return text
