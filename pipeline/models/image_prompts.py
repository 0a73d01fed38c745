"""Prompts with images beside them, of models that edit these or start from them."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from pipeline.data.prompt_images import read_beside
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import PromptFile, Prompts
from pipeline.utils.errors import UserError

EncodeBeside = Callable[[str, list[Image.Image], torch.device], Condition]
"""(prompt, images beside it, device) -> their condition on that device, one row."""


class ImagePrompts(Prompts):
    """Conditions of prompts and the images beside them.

    Of each image the middle is taken, in the proportion of what the network makes: so all rows have
    tensors of one shape. A prompt that is not in the list goes with the images of the first one. No
    prompt is the negative one beside black images; under guidance each sample keeps its own ones
    (`Condition.without_prompts`).

    Args:
        prompts: A label is a position in this list.
        negative: Stands for no condition: "" for no text at all.
        encode_beside: The model's own way from a prompt and images to a condition.
        guidable: As `Prompts`.
        size: (height, width) of what the network makes, in pixels.
        seen: Whether the encoder of prompts sees the images: then the negative prompt is encoded
            beside those of each row, to `tokens_null` and the like.
    """

    kept = 64  # with images they are large

    def __init__(
        self,
        prompts: Sequence[str],
        negative: str,
        encode_beside: EncodeBeside,
        guidable: bool,
        size: tuple[int, ...],
        seen: bool,
    ) -> None:
        super().__init__(prompts, negative, self._refuse, guidable)
        self._encode_beside, self._size, self._seen = encode_beside, size, seen

    @staticmethod
    def _refuse(texts: list[str], negative: bool, device: torch.device) -> Condition:
        raise AssertionError("a prompt without images")

    def label(self, prompt: str) -> int:
        """A number for any prompt: its own if it is in the list, with its own images."""
        return self.prompts.index(prompt) if prompt in self.prompts else super().label(prompt)

    def _encoded(self, text: str, number: int, device: torch.device) -> Condition:
        images = self._images(number)
        found = self._encode_beside(text, images, device)
        if not (self._seen and self.guidable):
            return found
        null = found if number < 0 else self._encode_beside(self.negative, images, device)
        own = {name: value for name, value in null.tensors.items() if not name.startswith("image")}
        return Condition({**found.tensors, **{f"{name}_null": own[name] for name in own}})

    def _images(self, number: int) -> list[Image.Image]:
        """Those beside a prompt of the list; of another prompt, of the first; of none, black."""
        height, width = self._size
        if not isinstance(self.prompts, PromptFile):  # none at all
            return [Image.new("RGB", (width, height))]
        files = self.prompts.images(number if 0 <= number < len(self.prompts) else 0)
        if number < 0:
            return [Image.new("RGB", (width, height))] * len(files)
        return [read_beside(file, height, width) for file in files]


def check_images(prompts: Sequence[str], most: int, pipeline: str) -> None:
    """See that a model has the images that it starts from, and no others.

    Args:
        prompts: Of the model.
        most: Images beside a prompt that it takes; 0: none.
        pipeline: Name of its pipeline's class.

    Raises:
        UserError: If it has too many or none.
    """
    count = len(prompts.images(0)) if isinstance(prompts, PromptFile) and prompts else None
    if count is None or (1 if most else 0) <= count <= most:
        return
    takes = f"{most or 'no'} image{'s' * (most != 1)} beside a prompt"
    way_out = "name the columns of teacher.prompts that have them" if most else "remove the setting"
    raise UserError(f"teacher.prompt_images: a {pipeline} takes {takes}, not {count}; {way_out}")
