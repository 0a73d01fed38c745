"""A run on several workers of this machine: processes and gloo, without Ray."""

import multiprocessing
import os
import socket
import sys
import traceback
from dataclasses import fields, replace

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
    from pipeline.distill.dmd import Lane
    from pipeline.distill.grid import Grid
    from pipeline.distill.record import Recorder

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if double:
        for name in ("load_teacher", "new_student"):
            made = getattr(setup, name)
            setattr(setup, name, lambda *args, made=made: made(*args).double())
        Lane.to = _double
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


def _double(lane, device):
    """The same lane in float64."""
    import torch

    def wide(value):
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floats else value

    pairs = lane.pairs
    if pairs is not None:
        pairs = replace(pairs, noise=wide(pairs.noise), images=wide(pairs.images))
    values = {field.name: getattr(lane, field.name) for field in fields(lane)}
    return replace(lane, **{k: wide(v) for k, v in values.items() if k != "pairs"}, pairs=pairs)
