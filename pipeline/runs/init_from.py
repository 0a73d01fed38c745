"""Earlier weights that a new run begins from: a stage after a stage."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.fetch import fetch
from pipeline.data.hub import SCHEME
from pipeline.data.store import Store, open_store
from pipeline.models.critic import Critic
from pipeline.models.export.save import PROVENANCE
from pipeline.models.frozen import load_learnt
from pipeline.models.lora import load_lora
from pipeline.models.network import Network
from pipeline.models.students import load_student
from pipeline.runs.checkpoint import read_part, read_student
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.utils.errors import UserError

_BACKBONES = tuple(f"{part}/diffusion_pytorch_model" for part in ("unet", "transformer"))
_RUN = "run.json"
_WEIGHTS = ("_model.safetensors", "_model.safetensors.index.json")
_CRITICS_OWN = ("heads.", "exits.")


def mark(config: Config) -> str:
    """SHA-256 of what stands for the weights in `distill.start_from`.

    Raises:
        UserError: If there is no finished run, checkpoint or student's folder.
    """
    store, names = _find(config)
    sums = [hashlib.sha256(store.get(name)).hexdigest() for name in names]
    text = " ".join([config.distill.start_weights, *sums])
    return hashlib.sha256(text.encode()).hexdigest()


def load(config: Config, student: Network, critic: Network | Critic) -> None:
    """Put the weights into new networks; the critic's too, where a run left them.

    Adapters go on as such; a student without them begins from a folder in which they are merged.

    Raises:
        UserError: As `mark`, or if they are of another network or of other adapters.
    """
    where, adapted = str(config.distill.start_from), config.distill.student.lora.rank is not None
    try:
        with _checkpoint(config) as folder:
            if folder is not None:
                _check_adapters(config, "student", "critic")
                load_learnt(student, read_student(folder, config.distill.start_weights))
                _load_critic(critic, read_part(folder, "critic"))
            elif adapted:
                _check_adapters(config, "student")
                load_lora(student, _earlier_student(config))
            else:
                earlier = load_student(_earlier_student(config), config.teacher)
                student.load_state_dict(earlier.state_dict())
    except RuntimeError as error:
        raise UserError(f"distill.start_from: {where} is another network: {error}") from error


def _load_critic(critic: nn.Module, weights: dict[str, Tensor]) -> None:
    """The denoiser's weights, and those of heads and exits if both have them."""
    own = {name: weights.pop(name) for name in list(weights) if name.startswith(_CRITICS_OWN)}
    weights = {name.removeprefix("denoiser."): value for name, value in weights.items()}
    if not isinstance(critic, Critic):
        load_learnt(critic, weights)
        return
    load_learnt(critic.denoiser, weights)
    shapes = {name: value.shape for name, value in critic.state_dict().items()}
    fitting = {name: value for name, value in own.items() if value.shape == shapes.get(name)}
    critic.load_state_dict(fitting, strict=False)


def _check_adapters(config: Config, *networks: str) -> None:
    """Raises UserError unless networks have the adapters now that they had in the earlier run."""
    made = _made(config).get("distill") or {}
    for name in networks:
        before = made.get(name, {}).get("lora") or {"rank": None}
        now = getattr(config.distill, name).lora.model_dump(mode="json")
        if before != now and (before["rank"] or now["rank"]):
            had, asks = (f"{each}" if each["rank"] else "no adapters" for each in (before, now))
            raise UserError(
                f"distill.start_from: the {name} of {config.distill.start_from} has {had}, and "
                f"distill.{name}.lora asks for {asks}: adapters go on as they were; without any, a "
                "run begins from the student's folder"
            )


def _made(config: Config) -> Mapping[str, Any]:
    """What defined the run that the weights are of, as far as it is known."""
    stores, run = [_find(config)[0]], _where(config).rpartition("/checkpoints/")[0]
    if run:
        stores.append(open_store(run, config.s3, "distill.start_from"))
    for store in stores:
        for name in (_RUN, PROVENANCE):
            if name in store.list():
                made = json.loads(store.get(name))
                return made if isinstance(made, dict) else {}
    return {}


def _earlier_student(config: Config) -> Path:
    where = _where(config)
    return fetch(where, config.s3, "distill.start_from") if "://" in where else Path(where)


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
        only = next(
            (each.name for each in CheckpointStore(store, 1).commits() if each.step == step), ""
        )
    with CheckpointStore(store, keep=1).newest(only) as found:
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
