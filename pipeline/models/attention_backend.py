"""Which kernels the attention of a network runs in, by the names that diffusers has for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
from diffusers.models.attention_dispatch import attention_backend
from torch import nn

from pipeline.utils.errors import UserError
from pipeline.utils.fields import Attention

_REFUSALS = ("attn_mask", "No available kernel", "No viable backend")
"""What diffusers and PyTorch say where a kernel cannot take a call."""


def for_training(backend: Attention) -> Attention:
    """The backend of networks that learn: diffusers has FlashAttention 3 without a way back."""
    return "native" if backend == "_flash_3" else backend


def use_attention(network: nn.Module, backend: Attention, setting: str) -> None:
    """Have the networks of diffusers in a module attend by a backend, in place.

    Source: https://huggingface.co/docs/diffusers/optimization/attention_backends

    Args:
        network: One, or what has some; "native" leaves it as it is.
        backend: Of attention.
        setting: Where the user chose it.

    Raises:
        UserError: If its package is missing, or the networks leave no choice.
    """
    if backend == "native":
        return
    try:
        with attention_backend("native"):  # which is again that of whoever chooses none
            for model in network.modules():
                if isinstance(model, diffusers.ModelMixin):
                    model.set_attention_backend(backend)
    except RuntimeError as error:
        raise UserError(f"{setting}: {error} Or use native") from error
    processors = (getattr(each, "processor", None) for each in network.modules())
    if not any(getattr(each, "_attention_backend", None) for each in processors):
        raise UserError(
            f"{setting}: {backend} is no choice that this teacher's network has; use native"
        )


@contextmanager
def refusals_named(backend: Attention, setting: str) -> Iterator[None]:
    """While the block runs, a call that the backend cannot take is an error of the setting.

    Raises:
        UserError: Instead of diffusers' and PyTorch's own.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if backend == "native" or not any(each in str(error) for each in _REFUSALS):
            raise
        raise UserError(
            f"{setting}: {backend} cannot take this teacher's attention ({error}); use native"
        ) from error
