"""A group of Ray Train workers, run to its end."""

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.cluster.network import GroupConfig
from pipeline.cluster.session import user_errors
from pipeline.utils import scratch
from pipeline.utils.errors import CodeError, UserError, problem_line

# Else every worker warns that DDP looks for unused parameters, which it does on purpose. (Other
# warnings of PyTorch's C++ part go with it; errors stay.)
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError),
    *(NotImplementedError, TypeError, ValueError),
)
"""What code raises that is wrong; machines and networks that fail raise others."""


def fit_group(
    worker: Callable[..., None],
    given: Mapping[str, Any],
    scaling: ScalingConfig,
    name: str,
    meanwhile: Callable[[], object] = lambda: None,
) -> BaseException | None:
    """Run a group of workers; returns what it failed with, or None.

    Args:
        worker: What each does. A `UserError` of it is the driver's to tell, in one line, and so is
            a fault in its code, as a `CodeError`; its traceback is printed.
        given: Its arguments.
        scaling: How many workers, and what each needs.
        name: Of the group.
        meanwhile: Called twice a second; what it raises ends the wait.
    """
    failed: list[BaseException] = []

    def one(given: dict[str, Any]) -> None:
        try:
            with faults_told():
                worker(**given)
        except UserError as error:
            logging.getLogger("ray.train").setLevel(logging.CRITICAL)
            raise error.with_traceback(None) from None

    def fit() -> None:
        # The folder is for Ray's own records; checkpoints are the worker's.
        try:
            with user_errors(), scratch.temporary_folder() as folder:
                TorchTrainer(
                    one,
                    train_loop_config=dict(given),
                    torch_config=GroupConfig(),
                    scaling_config=scaling,
                    run_config=RunConfig(
                        name=name,
                        storage_path=str(folder),
                        worker_runtime_env={"env_vars": _QUIET},
                    ),
                ).fit()
        except BaseException as error:
            failed.append(error)

    # Not in the main thread: there Ray would take Ctrl-C for itself.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        meanwhile()
    return failed[0] if failed else None


@contextmanager
def faults_told() -> Iterator[None]:
    """Print the traceback of a fault in the code, and raise it as one line with its place.

    Raises:
        CodeError: If the block raises what wrong code does.
    """
    try:
        yield
    except _FAULTS as error:
        traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        ours = (each for each in reversed(frames) if "site-packages" not in each.filename)
        place = next(ours, frames[-1])
        raise CodeError(f"{problem_line(error)} ({place.filename}:{place.lineno})") from None
