"""Scores that papers publish, by name: a further one is a file and a line here (`SCORES`)."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.config import EvaluateConfig, S3Config
from pipeline.data.fetch import fetch
from pipeline.models.scores.clip import load_clip, load_pick
from pipeline.models.scores.hps import load_hps
from pipeline.models.scores.objects import load_objects
from pipeline.models.scores.score import Score
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.uris import is_remote

SCORES: dict[str, Callable[[str], Score]] = {
    "clip": load_clip,
    "pick": load_pick,
    "hps": load_hps,
    "objects": load_objects,
}
"""Name -> what loads it, given its weights. `SCORES["mine"] = load` elsewhere makes one known."""


def load_scores(
    evaluate: EvaluateConfig, prompts: Sequence[str] | None, s3: S3Config
) -> Mapping[str, Score]:
    """The configured scores by name, for a teacher that has prompts.

    Raises:
        UserError: If one cannot be loaded, or there are no prompts that it reads.
    """
    found = {}
    for name, weights in evaluate.scored.items():
        setting = f"evaluate.scores.{name}"
        if prompts is None:
            raise UserError(f"{setting}: {weights} needs a teacher with prompts; leave it out")
        if find_spec("transformers") is None:
            raise UserError(f"{setting}: it needs transformers: pip install 'ray-dmd[text]'")
        if weights.startswith("/") and not Path(weights).exists():
            raise UserError(f"{setting}: there is no {weights}; name a folder of weights")
        try:
            place = str(fetch(weights, s3, setting)) if is_remote(weights) else weights
            found[name] = SCORES[name](place)
        except UserError as error:
            raise UserError(f"{setting}: {str(error).removeprefix(f'{setting}: ')}") from error
        except Exception as error:  # whatever a damaged file may come to
            raise UserError(f"{setting}: cannot load {weights}: {first_line(error)}") from error
        if not any(map(found[name].reads, prompts)):
            raise UserError(f"{setting}: it reads none of teacher.prompts; leave it out")
    return found
