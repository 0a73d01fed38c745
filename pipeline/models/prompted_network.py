"""What networks conditioned on text share: the pipeline of diffusers that encodes their prompts."""

import inspect
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import diffusers
import torch

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import Prompts, read_prompts
from pipeline.models.family import refuse
from pipeline.models.folder import ModelFolder, load_parts
from pipeline.models.frozen_pipeline import FrozenPipeline
from pipeline.models.network import Network
from pipeline.models.vae import VAE, ScaleShift
from pipeline.models.vocabulary import chat_problem, drop_unpaired, text_problem

_TEXT = ("text_encoder", "tokenizer")
"""How the names of the components begin that encode text."""


class PromptedNetwork(Network):
    """A backbone that is told of prompts by a pipeline of diffusers.

    Attributes:
        unused: Components of the pipeline that are left out.
        widths: Setting of the backbone -> settings of parts, with factors, whose sum it must be.
        shifts_latents: Whether the pipeline takes the VAE's `shift_factor`; others ignore it.
        reads_padding: Whether the backbone sees tokens that the mask leaves out.
    """

    unused: ClassVar[frozenset[str]] = frozenset()
    widths: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    shifts_latents: ClassVar[bool] = False
    reads_padding: ClassVar[bool] = False

    @classmethod
    def backbone_parts(cls) -> tuple[str, ...]:
        """Names of the components that the backbone is made of."""
        return (cls.part,)

    @classmethod
    def required(cls, folder: ModelFolder) -> set[str]:
        """Components without which its pipeline cannot be made; some may be None."""
        taken = inspect.signature(getattr(diffusers, folder.pipeline).__init__).parameters
        needed = {name for name, each in taken.items() if each.default is inspect.Parameter.empty}
        return needed - {"self", *cls.unused}

    @classmethod
    def load_frozen(
        cls, folder: ModelFolder, backbone: Any, encoders: bool = True
    ) -> FrozenPipeline:
        """The pipeline without the backbone.

        Args:
            folder: Of the model.
            backbone: What has the `config` of the backbone.
            encoders: Whether text encoders and tokenizers are read.

        Raises:
            UserError: If a part cannot be read, or encoders and backbone do not fit each other.
        """
        kind, required = getattr(diffusers, folder.pipeline), cls.required(folder)
        names, beside = cls.backbone_parts(), required.difference(cls.backbone_parts())
        wanted = {each for each in beside if encoders or not each.startswith(_TEXT)}
        parts = dict.fromkeys(required) | load_parts(folder.path, folder.index, wanted)
        vae, flags = cls.vae(parts["vae"]), cls.flags(folder.index)
        drop_unpaired(parts)
        if cls.chats and (problem := chat_problem(parts, folder.path)):
            refuse(folder, problem)
        widths = cls.widths if encoders else {}
        if problem := text_problem(kind, {**parts, names[0]: backbone}, names[0], widths):
            refuse(folder, problem)
        pipe = kind(**{**parts, **dict.fromkeys({*cls.unused, *names})}, **flags)
        # some ask it for widths while they encode prompts; a pipeline's own setter refuses this
        vars(pipe)[names[0]] = SimpleNamespace(config=backbone.config)
        return FrozenPipeline(pipe, vae, flags, beside)

    @classmethod
    def prompts_of(cls, frozen: FrozenPipeline, backbone: Any, teacher: TeacherConfig) -> Prompts:
        """What makes its conditions of the prompts of a teacher."""
        prompts, encode = read_prompts(teacher.prompts), partial(cls._encode, frozen)
        guidable, negative = cls.guidable(backbone, frozen.flags), teacher.negative_prompt
        return Prompts(prompts, negative, encode, guidable)

    @classmethod
    def vae(cls, network: Any) -> VAE:
        """The VAE, with the normaliser of this family's latents."""
        config = network.config
        shift = config.get("shift_factor") if cls.shifts_latents else None
        return VAE(network, ScaleShift(config.scaling_factor, shift or 0.0))

    @staticmethod
    def flags(index: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline that are no components, from its `model_index.json`."""
        return {}

    @staticmethod
    def guidable(backbone: Any, flags: Mapping[str, Any]) -> bool:
        """Whether it knows no condition, so that it can be guided; of its `flags` as well."""
        return True

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        """What the pipeline makes of prompts; `negative` says that they are the negative one."""
        raise NotImplementedError

    @classmethod
    def _encode(
        cls, frozen: FrozenPipeline, texts: list[str], negative: bool, device: torch.device
    ) -> Condition:
        for encoder in frozen.text_encoders:
            encoder.to(device)
        return cls.encode(frozen.pipe, texts, negative, device)
