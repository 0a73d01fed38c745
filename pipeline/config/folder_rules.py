"""Rules of folders: outputs that would be lost, overwrite each other or be where none can be."""

import re
from collections.abc import Mapping

from pipeline.config.rules import Problems
from pipeline.utils.uris import is_remote

_IN_BUCKETS = ("pairs", "encode", "embed", "distill", "export")
"""Branches whose outputs may be there."""
_WORKING_DIR = "/runtime_resources/working_dir_files/"
"""In the path of the copy of the working directory that Ray makes for a submitted job."""


def lost_problems(run: str, outputs: Mapping[str, str]) -> Problems:
    """Outputs of a job, by branch, that would be lost with it; of one in the run, the run."""
    for branch, output in outputs.items():
        if _WORKING_DIR in output:
            within = f"{output}/".startswith(f"{run}/")
            setting, folder = ("run", run) if within else (f"{branch}.output", output)
            bucket = not within and branch in _IN_BUCKETS
            yield (
                f"{setting}: {folder} would be lost with this job's copy of the working directory; "
                "give an absolute path that all nodes share"
                + (", or s3://bucket/prefix" if bucket else "")
            )


def overlap_problems(setting: str, source: str | None, output: str) -> Problems:
    """An output among the images that its branch reads from the folder of a setting."""
    if source and f"{output}/".startswith(f"{source.rstrip('/')}/"):
        branch = setting.partition(".")[0]
        yield f"{branch}.output: {output} is in {setting} ({source}); choose another folder"


def export_problems(push: str | None, outputs: Mapping[str, str]) -> Problems:
    """A folder of another branch, which it would replace; the name of a repository of the Hub."""
    places = {f"{branch}.output": output.rstrip("/") for branch, output in outputs.items()}
    ours = places.pop("export.output")
    for name, place in (
        places | {"the run's student": f"{places['distill.output']}/student"}
    ).items():
        if ours == place:
            yield f"export.output: {ours} is {name} too; choose another folder"
    if push and not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        yield f"export.push: {push!r} is no repository of the Hub; give owner/name"


def bucket_problems(outputs: Mapping[str, str | None]) -> Problems:
    """Outputs, by branch, of jobs that write local files alone."""
    *others, last = _IN_BUCKETS
    for branch, folder in outputs.items():
        if is_remote(folder or ""):
            yield (
                f"{branch}.output: {folder!r} is no local folder; only those of "
                f"{', '.join(others)} and {last} may be in a bucket; name one here"
            )
