"""What networks conditioned on text share: the pipeline of diffusers that encodes their prompts."""

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import diffusers
import torch
from PIL import Image

from pipeline.config import TeacherConfig
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import Prompts, read_prompts
from pipeline.models.family import refuse
from pipeline.models.folder import ModelFolder, load_parts
from pipeline.models.frozen_pipeline import FrozenPipeline
from pipeline.models.image_prompts import ImagePrompts, check_images
from pipeline.models.network import Network
from pipeline.models.sizes import ImageSizes
from pipeline.models.vae import VAE, ScaleShift
from pipeline.models.vocabulary import chat_problem, drop_unpaired, text_problem

TEXT = ("text_encoder", "tokenizer")
"""How the names of the components begin that encode text."""


class _Once(logging.Filter):
    """Lets through that a prompt was cut once, and not for each of thousands."""

    _said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "input was truncated" not in record.getMessage():
            return True
        first, self._said = not self._said, True
        return first


for _handler in logging.getLogger("diffusers").handlers:
    _handler.addFilter(_Once())


class PromptedNetwork(ImageSizes, Network):
    """A backbone that is told of prompts, and of images beside them, by a pipeline of diffusers.

    Attributes:
        unused: Components of the pipeline that are left out.
        widths: Setting of the backbone -> settings of parts, with factors, whose sum it must be.
        shifts_latents: Whether the pipeline takes the VAE's `shift_factor`; others ignore it.
        reads_padding: Whether the backbone sees what an encoder makes of padding: it is stored.
        images: Images beside a prompt that the pipeline takes at most; 0: none.
        sees_images: Whether its encoder of prompts sees the images beside them.
    """

    unused: ClassVar[frozenset[str]] = frozenset()
    widths: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    shifts_latents: ClassVar[bool] = False
    reads_padding: ClassVar[bool] = False
    images: ClassVar[int] = 0
    sees_images: ClassVar[bool] = False

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
            encoders: Whether is read what encodes prompts and the images beside them.

        Raises:
            UserError: If a part cannot be read, or encoders and backbone do not fit each other.
        """
        kind, required = getattr(diffusers, folder.pipeline), cls.required(folder)
        names, beside = cls.backbone_parts(), required.difference(cls.backbone_parts())
        encoding = {each for each in beside if each.startswith(TEXT) or each in cls.beside}
        wanted = beside if encoders else beside - encoding
        parts = dict.fromkeys(required) | load_parts(folder.path, folder.index, wanted)
        vae, flags = cls.vae(parts["vae"]), cls.flags(folder.index)
        drop_unpaired(parts)
        if encoders and cls.chats and (problem := chat_problem(parts, folder.path)):
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
        """What makes its conditions of the prompts of a teacher.

        Raises:
            UserError: If these lack images, or have too many.
        """
        prompts, negative = read_prompts(teacher.prompts), teacher.negative_prompt
        guidable = cls.guidable(backbone, frozen.flags)
        check_images(prompts, cls.images, type(frozen.pipe).__name__)
        if not cls.images:
            encode = partial(cls._encode, frozen, partial(cls.encode, frozen.pipe))
            return Prompts(prompts, negative, encode, guidable)
        size = cls.size_for(backbone, frozen.vae, teacher.picture_size)
        beside = partial(cls._encode, frozen, partial(cls.encode_beside, frozen, size))
        return ImagePrompts(prompts, negative, beside, guidable, size[-2:], cls.sees_images)

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

    @classmethod
    def own_guidance(cls, folder: ModelFolder) -> float:
        """By what its pipeline guides where it is told nothing, as it counts; 1: by nothing."""
        taken = inspect.signature(getattr(diffusers, folder.pipeline).__call__).parameters
        scale = taken.get("true_cfg_scale") or taken["guidance_scale"]
        return float(scale.default)

    @staticmethod
    def encode(pipe: Any, texts: list[str], negative: bool, device: torch.device) -> Condition:
        """What the pipeline makes of prompts; `negative` says that they are the negative one."""
        raise NotImplementedError

    @classmethod
    def encode_beside(
        cls,
        frozen: FrozenPipeline,
        size: tuple[int, ...],
        text: str,
        images: list[Image.Image],
        device: torch.device,
    ) -> Condition:
        """What the pipeline makes of a prompt, the negative one too, and the images beside it.

        Args:
            frozen: The pipeline and its VAE; text encoders are on the device.
            size: As the network's.
            text: The prompt.
            images: In the proportion of the size, in colours.
            device: Where the condition shall be.

        Returns:
            One row, in which names of what is made of the images alone begin with `image`.
        """
        raise NotImplementedError

    @staticmethod
    def _encode(frozen: FrozenPipeline, encode: Callable[..., Condition], *given: Any) -> Condition:
        """What `encode` makes, with the text encoders on the device, the last of what is given."""
        for encoder in frozen.text_encoders:
            encoder.to(given[-1])
        return encode(*given)
