"""The hook that tells when compiled networks are compiled again and again."""

import logging

from pipeline.models.compilation import compiled_graphs
from pipeline.training.hooks import Hook
from pipeline.training.step import StepResult

log = logging.getLogger(__name__)

_EXPECTED = 8
"""Steps of one size in which something may be new: the first of each phase, a picture."""


class Compilations(Hook):
    """Counts the steps in which networks were compiled, and hints once that there are many.

    Args:
        sizes: Of the run's images.
    """

    def __init__(self, sizes: int) -> None:
        self._limit, self._steps, self._graphs = _EXPECTED * sizes, 0, compiled_graphs()

    def after_step(self, step: int, result: StepResult) -> None:
        """See whether this step compiled anything."""
        before, self._graphs = self._graphs, compiled_graphs()
        if self._graphs == before:
            return
        self._steps += 1
        if self._steps == self._limit + 1:
            log.warning(
                "step %d: networks were compiled in %d steps so far, %d graphs in all, each for "
                "another shape; if this goes on, distill.compile: none is faster",
                step,
                self._steps,
                self._graphs,
            )
