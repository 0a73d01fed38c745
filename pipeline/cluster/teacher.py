"""The teacher job: what learns from captions is trained by Ray Train workers."""

import logging
from typing import Any

import ray
import torch
from ray.train import ScalingConfig

from pipeline.cluster.group import fit_group
from pipeline.cluster.room import Asked, Waiting
from pipeline.cluster.session import connect
from pipeline.config import Config, TextConfig
from pipeline.data.captioned import CaptionedImages
from pipeline.stages import teacher
from pipeline.utils.errors import UserError, first_line

RESTARTS = 3
"""How often the workers begin again after a failure, from the newest state."""

log = logging.getLogger(__name__)


def make_teacher(config: Config) -> None:
    """Train or import the configured teacher; run again, it goes on.

    Raises:
        UserError: As `pipeline.stages.teacher.make_teacher`.
    """
    teacher.make_teacher(config, _by_workers)


def _by_workers(
    found: CaptionedImages, settings: dict[str, Any], provenance: dict[str, object]
) -> None:
    connect()
    given = {"images": [ray.put(found)], "settings": settings, "provenance": provenance}
    text = Config.model_validate(settings).teacher.training.text
    asked = Asked("teacher.training.text", text.workers, text.cpus, text.gpus)
    asked.check()
    waiting = Waiting("teacher", asked)
    waiting.look()
    for attempt in range(RESTARTS + 1):
        failure = fit_group(_worker, given, _scaling(text), "teacher", waiting.look)
        if failure is None:
            return
        if isinstance(failure, UserError) or attempt == RESTARTS:
            raise failure
        log.warning("the workers failed (%s): starting again", first_line(failure))


def _scaling(text: TextConfig) -> ScalingConfig:
    each = {name: n for name, n in (("CPU", text.cpus), ("GPU", text.gpus)) if n}
    return ScalingConfig(num_workers=text.workers, use_gpu=text.gpus > 0, resources_per_worker=each)


def _worker(
    images: list[ray.ObjectRef[CaptionedImages]],
    settings: dict[str, Any],
    provenance: dict[str, object],
) -> None:
    cpus = Config.model_validate(settings).teacher.training.text.cpus
    torch.set_num_threads(max(1, int(cpus)))
    teacher.train_text(ray.get(images[0]), settings, provenance)
