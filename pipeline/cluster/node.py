"""What the nodes are and how fast their workers are, seen from tasks on them."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.room import Asked
from pipeline.cluster.session import user_errors
from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.data.local import LocalStore
from pipeline.models.half import compute_in_half
from pipeline.models.students import new_student
from pipeline.runs.run import Run
from pipeline.utils import scratch
from pipeline.utils.errors import UserError

PACKAGES = ("ray", "torch", "diffusers", "accelerate", "pyarrow", "boto3")


@dataclass(frozen=True)
class Node:
    """One machine of the cluster.

    Attributes:
        address: Its IP.
        versions: Of Python and of the packages that matter.
        sees: Local folder -> whether the driver's file is in it.
        free: Local folder -> bytes free on its disk.
    """

    address: str
    versions: dict[str, str]
    sees: dict[str, bool]
    free: dict[str, int]


@dataclass(frozen=True)
class Device:
    """What a worker computes on.

    Attributes:
        name: Of its GPU, or "CPU".
        memory: Bytes that it has.
    """

    name: str
    memory: int


@dataclass(frozen=True)
class Speed:
    """A worker as it was measured.

    Attributes:
        device: Name of its GPU, or "CPU".
        teacher, student: Seconds of one network evaluation for one image, in a batch.
    """

    device: str
    teacher: float
    student: float


def versions() -> dict[str, str]:
    """Of this process."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def look_at_nodes(folders: Mapping[str, str | None], patience: float) -> list[Node]:
    """Every node that is there now, looked at by a task of its own.

    Args:
        folders: Local folder that the nodes should share -> the name of a file that is in it; None
            puts one there meanwhile.
        patience: Seconds that all of them may take.

    Raises:
        UserError: If a node does not answer.
    """
    token = scratch.name("doctor")
    files = {folder: file or token for folder, file in folders.items()}
    stores = [LocalStore(Path(folder)) for folder, file in folders.items() if file is None]
    for store in stores:
        store.put(token, b"")
    try:
        tasks = [
            _look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            ).remote(files)
            for each in ray.nodes()
            if each["Alive"]
        ]
        return list(ray.get(tasks, timeout=patience))
    except ray.exceptions.RayError as error:
        raise UserError(f"a node does not answer: {error}; look at `ray status`") from error
    finally:
        for store in stores:
            store.delete(token)


@ray.remote(num_cpus=0)
def _look(files: dict[str, str]) -> Node:
    """What this node sees."""
    return Node(
        address=ray.util.get_node_ip_address(),
        versions=versions(),
        sees={folder: Path(folder, file).is_file() for folder, file in files.items()},
        free={each: shutil.disk_usage(_existing(Path(each))).free for each in files},
    )


def meet_device(asked: Asked, patience: float) -> Device:
    """What a task with the resources of one worker computes on.

    Args:
        asked: The resources.
        patience: Seconds in which a node must have taken it.

    Raises:
        UserError: If none has.
    """
    asked.check()
    found: Device = _done(_meet, asked, patience)
    return found


def measure_speed(settings: dict[str, Any], asked: Asked, patience: float) -> Speed:
    """Load the networks of a run on some node, and time them there.

    Args:
        settings: Of the run, as a plain dict.
        asked: What the task holds, for a setting in the branch that has the precision.
        patience: Seconds until it must be done.

    Raises:
        UserError: If no node takes the task, or the networks cannot be loaded there.
    """
    found: Speed = _done(_measure, asked, patience, settings, asked.setting)
    return found


def _done(task: Any, asked: Asked, patience: float, *given: Any) -> Any:
    """What a task comes to."""
    result = task.options(num_cpus=asked.cpus, num_gpus=asked.gpus).remote(*given)
    done, _ = ray.wait([result], timeout=patience)
    if not done:
        ray.cancel(result)
        raise UserError(
            f"{asked}: no node took it in {patience:g} seconds; start nodes, ask for less, or wait "
            "longer with doctor.patience"
        )
    with user_errors():
        return ray.get(result)


@ray.remote
def _meet() -> Device:
    return _device()


@ray.remote
def _measure(settings: dict[str, Any], name: str) -> Speed:
    """Load the networks as a worker does, and time them."""
    # by its name: Ray cannot pickle what names `torch` and `classes`
    return _measured(settings, name.partition(".")[0])


def _measured(settings: dict[str, Any], branch: str) -> Speed:
    config = fetch_inputs(Config.model_validate(settings), "teacher")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = Run(config).load_teacher().to(device)
    student = new_student(teacher, config.network, config.seed).to(device)
    if getattr(config, branch).precision == "bf16":
        compute_in_half(teacher)
        compute_in_half(student)
    rows = min(config.distill.batch_size // config.distill.lanes, 64)
    noise = torch.randn(rows, *teacher.shape, device=device)
    labels = None if teacher.classes is None else torch.zeros(rows, dtype=torch.int64)
    condition = teacher.conditioner(labels, rows, device)

    @torch.no_grad()
    def seconds(network: Any) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            images = teacher.sampler.images(network, noise, condition)
            images.flatten()[0].item()  # waits for a GPU
            times.append(time.perf_counter() - start)
        return min(times) / rows

    return Speed(_device().name, seconds(teacher), seconds(student))


def _device() -> Device:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Device(torch.cuda.get_device_name(), memory)
    return Device("CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)
