"""What a student's folder has beside the networks: its card, and pictures of its run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.data import hub
from pipeline.data.store import open_store
from pipeline.models.export.card import PICTURE, README, Origin, model_card, read_origin
from pipeline.models.network import Network
from pipeline.models.weights import weights_digest
from pipeline.runs.run_folder import Made


def write_card(
    folder: Path,
    config: Config,
    student: Network,
    made: Made,
    step: int,
    name: str,
    address: str,
    more: Sequence[str] = (),
) -> None:
    """Put README.md, and the run's picture up to a step, into a student's new folder.

    Args:
        folder: Of the student, weights included.
        config: Of the run, with its teacher here.
        student: The network.
        made: Its provenance.
        step: Of its checkpoint.
        name: Under which it will be loaded: a folder's, or owner/name.
        address: `teacher.output` as it was given.
        more: Further ways to use it, in Markdown.
    """
    picture = _picture(config, step)
    if picture:
        (folder / PICTURE).write_bytes(picture)
    card = model_card(
        student, name, _origin(config, address), made, _figures(config, folder), bool(picture), more
    )
    (folder / README).write_text(card)


def _origin(config: Config, address: str) -> Origin:
    if config.teacher.kind == "gaussian":
        return read_origin(None)
    model = None
    if address.startswith(hub.SCHEME):
        model = hub.parse(address, "teacher.output")
    return read_origin(Path(config.teacher.output), *(model or ()))


def _figures(config: Config, folder: Path) -> dict[str, Any] | None:
    """What `jobs/evaluate.py` found of these very weights, if it was run on them."""
    try:
        figures = json.loads((Path(config.evaluate.output) / "evaluation.json").read_text())
        judged = figures.pop("student")
        features = figures.get("metrics", {}).get("features", {}).get("name", "not known")
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    if judged != weights_digest(folder):
        return None
    found = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return {"features": features, **found}


def _picture(config: Config, step: int) -> bytes | None:
    """The run's newest grid of samples that is no later than a step."""
    store = open_store(config.distill.output, config.s3, "distill.output")
    last = f"samples/step-{step:07d}.png"
    names = [name for name in store.tree() if "samples/step-" <= name <= last]
    return store.get(max(names)) if names else None
