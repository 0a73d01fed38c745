"""The command line all jobs share: YAML file, dotted overrides, dry run, exit code."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.cli import options
from pipeline.cli.job import Job
from pipeline.config import Config, folder_rules, refusals, settings_yaml
from pipeline.utils.errors import StoppedError, UserError, one_line
from pipeline.utils.files import no_empty_folders
from pipeline.utils.uris import absolute


def main(job: Job, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Read the settings, then run a job on them; nothing of it is imported before they are valid.

    Args:
        job: What to do with the settings.
        arguments: Command line, without the program's name; None means `sys.argv`.
        prog: What the user typed before them, for the help; None means `sys.argv`.

    Returns:
        Exit code: 0 done (or dry run printed), 2 bad input, 130 interrupted. Any other
        exception passes through: a traceback and exit code 1.
    """
    try:
        words = sys.argv[1:] if arguments is None else arguments
        given, flag = options.parse(job, words, prog)
        config, source = _load(given)
        other = job.instead.get(flag)
        outputs = {
            branch: absolute(getattr(config, branch).output or config.report_file)
            for branch in (() if other else job.writes)
        }
        for problem in folder_rules.lost_problems(config.run, outputs):
            raise UserError(problem)
        dry = flag == options.DRY_RUN
        if source:
            print("# " * dry + source)
        if dry:
            from pipeline.stages.plan import Plan  # torch: not for --help

            own = (f"--{options.DRY_RUN}", *given.get(job.words, ()))
            others = [word for word in words if word not in own]
            lines = Plan(config).told(partial(_command, others, prog or ""))
            settings = settings_yaml.dump(config.model_dump(mode="json"))
            print("".join(f"# {line}\n" for line in lines) + settings, end="")
        else:
            with no_empty_folders([Path(each) for each in outputs.values()]):
                for call in (other or job).functions():
                    call(config)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        if isinstance(error, StoppedError):
            return 130
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _command(words: Sequence[str], prog: str, job: str) -> str:
    """What a user types to run a job with these words, as `prog` was typed."""
    typed = ("ray-dmd", job) if prog.startswith("ray-dmd") else ("python", f"jobs/{job}.py")
    return shlex.join([*typed, *words])


def load(arguments: Sequence[str], job: Job | None = None) -> Config:
    """Settings: what the command line says goes before the YAML file, the file before defaults.

    Args:
        arguments: Without the program's name.
        job: Whose flags and words they may have.

    Raises:
        UserError: For an unknown key, a wrong value, or a file that cannot be read.
    """
    return _load(options.parse(job or Job(print), arguments)[0])[0]


def _load(given: dict[str, Any]) -> tuple[Config, str]:
    """The settings with these over those of the file, and what to say of it if nobody named it."""
    path, source = _file(given.pop(options.CONFIG), given.get("run"))
    return load_config(path, given), source


def load_config(file: str, settings: Mapping[str, Any] | None = None) -> Config:
    """Settings of a run: those of a YAML file, with others over them.

    Args:
        file: A YAML file. `configs/...` that is not in this folder is the one of this package.
        settings: Name as on the command line -> value: `{"distill.steps": 20}`. A value that is a
            dict takes the place of the whole branch.

    Returns:
        A frozen tree: `config.distill.steps`. Folders are absolute, those that are not named are
        in `config.run`.

    Raises:
        UserError: For an unknown name, a wrong value, or a file that cannot be read.
    """
    tree = settings_yaml.read(_shipped(file))
    for key, value in (settings or {}).items():
        _put(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(refusals.line(error.errors(), options.names())) from None


DEFAULT_FILE = "configs/digits.yaml"
"""Config file of a run that names none and has none."""


def _file(named: str | None, run: str | None) -> tuple[str, str]:
    """The file of settings, and what to say of one that nobody named."""
    if path := named or os.environ.get("DMD_CONFIG"):
        return _shipped(path), ""
    if run is not None and (recorded := _recorded(absolute(run))):
        return recorded, f"settings: those of this run, {recorded}; --config names others"
    path = _shipped(DEFAULT_FILE)
    return path, f"settings: {path}, since neither --config nor DMD_CONFIG names a file"


def _shipped(path: str) -> str:
    """The path; of one in `configs` that is not in this folder, the file of this package."""
    file = settings_yaml.shipped().parent / path
    found = path.startswith("configs/") and not os.path.exists(path) and file.is_file()
    return str(file) if found else path


def _recorded(run: str) -> str | None:
    """The settings that a run left in its folder, if it is this user's and has not moved.

    Settings name folders that are written and modules that are imported: those of another user are
    not taken unasked.
    """
    file = Path(run, "distill", "config.yaml")
    try:
        own = file.stat().st_uid == os.getuid()
    except OSError:
        return None
    return str(file) if own and settings_yaml.read(str(file)).get("run") == run else None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a branch that is no mapping stays, for `Config` to refuse.

    Branches on the way are copied: an alias in YAML has two names share one.
    """
    *groups, leaf = key.split(".")
    branch = tree
    for group in groups:
        found = branch.get(group, {})
        if not isinstance(found, dict):
            return
        branch[group] = dict(found)
        branch = branch[group]
    branch[leaf] = value
