"""A run on several workers of this machine: processes and gloo, without Ray."""

import multiprocessing
import os
import socket
import sys
import traceback

# One process imports everything, and every worker is a fork of it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.distill.workers", "pipeline.distill.loop"])


def train(config, workers: int, steps: int | None = None, double: bool = False) -> None:
    """Train with so many workers; leave after `steps` if given; in float64 if `double`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = config.model_dump(mode="json")
    group = [
        _context.Process(target=_worker, args=(rank, workers, port, settings, steps, double))
        for rank in range(workers)
    ]
    for each in group:
        each.start()
    for each in group:
        each.join(120)
    assert [each.exitcode for each in group] == [0] * workers


def _worker(rank, workers, port, settings, steps, double) -> None:
    import torch

    from pipeline.config import Config
    from pipeline.distill import loop, setup
    from pipeline.distill.grid import Grid
    from pipeline.distill.lanes import Lane
    from pipeline.distill.record import Recorder
    from tests.distill.double import double as wide

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if double:
        for name in ("load_teacher", "new_student", "new_critic"):
            made = getattr(setup, name)
            setattr(setup, name, lambda *args, made=made: made(*args).double())
        Lane.to = lambda lane, device: wide(lane)
        Grid.rows = Recorder.grid = lambda *_: None
    config, calls = Config.model_validate(settings), []

    def leaving() -> bool:
        calls.append(None)
        return steps is not None and len(calls) * config.distill.log_every >= steps

    try:
        loop.train(config, leaving)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
