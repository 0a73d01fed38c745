"""Earlier weights that a new run begins from: a stage after a stage."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from torch import Tensor, nn

from pipeline.config import DistillConfig, S3Config, TeacherConfig
from pipeline.data import hub
from pipeline.data.fetch import fetch
from pipeline.data.storage import Storage
from pipeline.models.critic import Critic
from pipeline.models.export.save import PROVENANCE
from pipeline.models.frozen import load_learnt
from pipeline.models.loading import load_denoiser
from pipeline.models.lora import load_lora
from pipeline.models.network import Network
from pipeline.models.weights import BACKBONES
from pipeline.runs.checkpoint import read_part, read_student
from pipeline.runs.checkpoint_store import CheckpointStore
from pipeline.runs.run_folder import RUN, STATE
from pipeline.utils.errors import UserError

_SETTING = "distill.start_from"
_WEIGHTS_OF = tuple(f"{part}/diffusion_pytorch_model" for part in BACKBONES)
_WEIGHTS = ("_model.safetensors", "_model.safetensors.index.json")
_CRITICS_OWN = ("heads.", "exits.")


class InitFrom:
    """The weights in `distill.start_from`: of a finished run, a checkpoint or a student's folder.

    Args:
        distill: Settings of the new run, with `start_from`.
        teacher: Its teacher, here.
        credentials: What reaches a bucket.
    """

    def __init__(
        self, distill: DistillConfig, teacher: TeacherConfig, credentials: S3Config
    ) -> None:
        self._distill, self._teacher, self._credentials = distill, teacher, credentials
        self._given = str(distill.start_from)

    def fingerprint(self) -> str:
        """SHA-256 of what stands for the weights.

        Raises:
            UserError: If there is no finished run, checkpoint or student's folder.
        """
        storage, names = self._find()
        sums = [hashlib.sha256(storage.get(name)).hexdigest() for name in names]
        text = " ".join([self._distill.start_weights, *sums])
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, student: Network, critic: Network | Critic) -> None:
        """Put the weights into new networks; the critic's too, where a run left them.

        Adapters go on as such; a student without them begins from a folder in which they are
        merged.

        Raises:
            UserError: As `fingerprint`, or if they are of another network or of other adapters.
        """
        try:
            with self._checkpoint() as folder:
                if folder is not None:
                    self._check_adapters("student", "critic")
                    load_learnt(student, read_student(folder, self._distill.start_weights))
                    _load_critic(critic, read_part(folder, "critic"))
                    return
            earlier = fetch(self._uri, self._credentials, _SETTING)
            if self._distill.student.lora.rank is not None:
                self._check_adapters("student")
                load_lora(student, earlier)
            else:
                saved = load_denoiser(earlier, f"set {_SETTING}", self._teacher)
                student.load_state_dict(saved.state_dict())
        except RuntimeError as error:
            raise UserError(f"{_SETTING}: {self._given} is another network: {error}") from error

    @cached_property
    def _uri(self) -> str:
        """What is named; of a student on the Hub, its copy here."""
        if hub.is_model(self._given):
            return str(fetch(self._given, self._credentials, _SETTING))
        return self._given

    def _storage(self, uri: str) -> Storage:
        return Storage(uri, self._credentials, _SETTING)

    def _find(self) -> tuple[Storage, list[str]]:
        """A folder, and the names of the objects in it that tell one origin from another."""
        storage = self._storage(self._uri)
        names = storage.tree()
        if STATE in names:
            return storage, [STATE]
        backbone = [name for name in names if name.startswith(_WEIGHTS_OF)]
        for name in backbone:
            if name.endswith(_WEIGHTS):
                return storage, [name, *(part for part in backbone if part != name)]
        parent, _, name = self._uri.rpartition("/")
        if parent.endswith("/checkpoints"):
            beside = self._storage(parent)
            if f"{name}.json" in beside.list():
                return beside, [f"{name}.json"]
        raise UserError(
            f"{_SETTING}: {self._uri} is no finished run ({STATE}), no checkpoint of one "
            "(<run>/checkpoints/<name>) and no student's folder"
        )

    @contextmanager
    def _checkpoint(self) -> Iterator[Path | None]:
        """The files of the checkpoint that is meant; None for a student's folder."""
        storage, (name, *_) = self._find()
        if name.endswith(_WEIGHTS):
            yield None
            return
        only = name.removesuffix(".json")
        if name == STATE:
            step = _object(storage, name).get("step")
            storage = storage / "checkpoints"
            commits = CheckpointStore(storage, keep=1).commits()
            only = next((each.name for each in commits if each.step == step), "")
        with CheckpointStore(storage, keep=1).newest(only) as found:
            if found is None:
                raise UserError(f"{_SETTING}: the last checkpoint of {self._given} is gone")
            yield found[1]

    def _check_adapters(self, *networks: str) -> None:
        """Raises UserError unless networks have the adapters now that they had before."""
        earlier = self._provenance().get("distill") or {}
        for name in networks:
            before = earlier.get(name, {}).get("lora") or {"rank": None}
            now = getattr(self._distill, name).lora.model_dump(mode="json")
            if before != now and (before["rank"] or now["rank"]):
                had, asks = (f"{each}" if each["rank"] else "no adapters" for each in (before, now))
                raise UserError(
                    f"{_SETTING}: the {name} of {self._given} has {had}, and distill.{name}.lora "
                    f"asks for {asks}: adapters go on as they were; without any, a run begins from "
                    "the student's folder"
                )

    def _provenance(self) -> Mapping[str, Any]:
        """What defined the run that the weights are of, as far as it is known."""
        places, run = [self._find()[0]], self._uri.rpartition("/checkpoints/")[0]
        if run:
            places.append(self._storage(run))
        for storage in places:
            for name in (RUN, PROVENANCE):
                if name in storage.list():
                    return _object(storage, name)
        return {}


def _object(storage: Storage, name: str) -> dict[str, Any]:
    """What a file says; raises UserError if it is damaged."""
    try:
        found = from_json(storage.get(name))
    except ValueError as error:
        raise UserError(f"{_SETTING}: {storage.uri(name)} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{_SETTING}: {storage.uri(name)} is damaged: it is no JSON object")
    return found


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
