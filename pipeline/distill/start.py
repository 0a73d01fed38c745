"""Earlier weights that a new run begins from: a stage after a stage."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.fetch import fetch
from pipeline.data.hub import SCHEME
from pipeline.data.store import Store, open_store
from pipeline.distill.checkpoint import read_part, read_student
from pipeline.distill.history import History
from pipeline.errors import UserError
from pipeline.models.build import load_student
from pipeline.models.critic import Critic

_BACKBONES = tuple(f"{part}/diffusion_pytorch_model" for part in ("unet", "transformer"))
_WEIGHTS = ("_model.safetensors", "_model.safetensors.index.json")


def mark(config: Config) -> str:
    """SHA-256 of what stands for the weights in `distill.start_from`.

    Raises:
        UserError: If there is no finished run, checkpoint or student's folder.
    """
    store, names = _find(config)
    sums = [hashlib.sha256(store.get(name)).hexdigest() for name in names]
    text = " ".join([config.distill.start_weights, *sums])
    return hashlib.sha256(text.encode()).hexdigest()


def load(config: Config, student: nn.Module, critic: nn.Module) -> None:
    """Put the weights into new networks; the critic's too, where a run left them.

    Raises:
        UserError: As `mark`, or if they are of another network.
    """
    where = str(config.distill.start_from)
    try:
        with _checkpoint(config) as folder:
            if folder is None:
                student.load_state_dict(_earlier_student(config).state_dict())
                return
            student.load_state_dict(read_student(folder, config.distill.start_weights))
            _load_critic(critic, read_part(folder, "critic"))
    except RuntimeError as error:
        raise UserError(f"distill.start_from: {where} is another network: {error}") from error


def _load_critic(critic: nn.Module, weights: dict[str, Tensor]) -> None:
    """The denoiser's weights, and those of the heads if both have any."""
    heads = {name: weights.pop(name) for name in list(weights) if name.startswith("heads.")}
    weights = {name.removeprefix("denoiser."): value for name, value in weights.items()}
    if not isinstance(critic, Critic):
        critic.load_state_dict(weights)
        return
    critic.denoiser.load_state_dict(weights)
    if heads:
        critic.load_state_dict(heads, strict=False)


def _earlier_student(config: Config) -> nn.Module:
    where = _where(config)
    local = fetch(where, config.s3, "distill.start_from") if "://" in where else Path(where)
    return load_student(local, config.teacher)


def _where(config: Config) -> str:
    """What is named; of a student on the Hub, its copy here."""
    where = str(config.distill.start_from)
    if where.startswith(SCHEME):
        return str(fetch(where, config.s3, "distill.start_from"))
    return where


@contextmanager
def _checkpoint(config: Config) -> Iterator[Path | None]:
    """The files of the checkpoint that is meant; None for a student's folder."""
    store, (name, *_) = _find(config)
    if name.endswith(_WEIGHTS):
        yield None
        return
    where, only = str(config.distill.start_from), name.removesuffix(".json")
    if name == "state.json":
        step = json.loads(store.get(name))["step"]
        store = open_store(f"{where}/checkpoints", config.s3, "distill.start_from")
        only = next((each.name for each in History(store, 1).commits() if each.step == step), "")
    with History(store, keep=1).newest(only) as found:
        if found is None:
            raise UserError(f"distill.start_from: the last checkpoint of {where} is gone")
        yield found[1]


def _find(config: Config) -> tuple[Store, list[str]]:
    """A store, and the names of the objects in it that tell one origin from another."""
    where = _where(config)
    store = open_store(where, config.s3, "distill.start_from")
    names = store.tree()
    if "state.json" in names:
        return store, ["state.json"]
    backbone = [name for name in names if name.startswith(_BACKBONES)]
    for name in backbone:
        if name.endswith(_WEIGHTS):
            return store, [name, *(part for part in backbone if part != name)]
    parent, _, name = where.rpartition("/")
    if parent.endswith("/checkpoints"):
        beside = open_store(parent, config.s3, "distill.start_from")
        if f"{name}.json" in beside.list():
            return beside, [f"{name}.json"]
    raise UserError(
        f"distill.start_from: {where} is no finished run (state.json), no checkpoint of one "
        "(<run>/checkpoints/<name>) and no student's folder"
    )
