"""ComfyUI's names of modules: those pinned are diffusers' own converters', and files have them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils as converters
from torch import Tensor, nn

from pipeline.models.comfyui import ComfyUI
from pipeline.models.export.comfyui.weights import adapters, backbone_weights
from pipeline.models.loading import load_teacher
from tests.families.builder import Builder
from tests.families.builders import BUILDERS
from tests.fixtures.comfyui import FACTS, Names

TINY = {
    "chroma": "chroma",
    "flux2": "flux2-klein",
    "hunyuan-video": "hunyuan-video",
    "ltx": "ltx",
    "lumina2": "lumina2",
    "wan": "wan",
}
"""Families that ComfyUI has other names for -> a tiny model."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "chroma": ("Chroma", {"num_layers": 2, "num_single_layers": 2, "approximator_layers": 2}),
    "flux": ("Flux", {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}),
    "flux2": ("Flux2", {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}),
    "hunyuan-video": ("HunyuanVideo15", {"num_layers": 2, "num_refiner_layers": 2}),
    "ltx": ("LTXVideo", {"num_layers": 2}),
    "lumina2": ("Lumina2", {"num_layers": 2, "num_refiner_layers": 2}),
    "qwen": ("QwenImage", {"num_layers": 2}),
    "sd3": (
        "SD3",
        {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64}
        | {"caption_projection_dim": 128, "qk_norm": "rms_norm", "dual_attention_layers": (0,)},
    ),
    "wan": ("Wan", {"num_layers": 2, "added_kv_proj_dim": 5120, "image_dim": 1280}),
    "z-image": ("ZImage", {"n_layers": 2}),
}
CONVERTERS: dict[str, Callable[..., Any]] = {
    "chroma": converters.convert_chroma_transformer_checkpoint_to_diffusers,
    "flux": converters.convert_flux_transformer_checkpoint_to_diffusers,
    "flux2": converters.convert_flux2_transformer_checkpoint_to_diffusers,
    "ltx": converters.convert_ltx_transformer_checkpoint_to_diffusers,
    "lumina2": converters.convert_lumina2_to_diffusers,
    "sd3": converters.convert_sd3_transformer_checkpoint_to_diffusers,
    "wan": converters.convert_wan_transformer_to_diffusers,
    "z-image": converters.convert_z_image_transformer_checkpoint_to_diffusers,
}
"""Qwen-Image has none: its names are the same. That of HunyuanVideo 1.5 is not in the package."""


class Missing(dict):
    """A converter's checkpoint: what it asks for beside the modules is there, and means nothing."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, torch.zeros(12))


@cache
def model(family: str) -> tuple[dict[str, Tensor], list[str]]:
    """As many rows as the real weights have, one column, all numbers different; linear modules."""
    name, config = MODELS[family]
    kinds = [f"{name}Transformer{kind}Model" for kind in ("2D", "3D")]
    kind = next(getattr(diffusers, each) for each in kinds if hasattr(diffusers, each))
    with init_empty_weights():
        network = kind(**config)
    weights, start = {}, 0
    for name, value in network.state_dict().items():
        rows = value.shape[0] if value.ndim else 1
        weights[name] = torch.arange(start, start + rows, dtype=torch.float64)
        weights[name] = weights[name].view(-1, *[1] * (value.ndim - 1))
        start += rows
    linear = [name for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    return weights, linear


@pytest.mark.parametrize("family", FACTS["modules"])
def test_the_pinned_names_are_those_of_diffusers_converters(family: str) -> None:
    weights, linear = model(family)
    names = Names(family, weights)
    theirs = [part for parts in names.parts.values() for part in parts]
    assert sorted(theirs) == sorted(linear), "all linear modules are pinned, and no others"
    if family == "qwen":
        assert all(parts == [own] for own, parts in names.parts.items())
        return
    if family not in CONVERTERS:
        return
    checkpoint = Missing(names.own(weights) | names.own(weights, "bias"))
    made = CONVERTERS[family](checkpoint)
    for module in linear:
        assert torch.equal(made[f"{module}.weight"], weights[f"{module}.weight"]), module


@pytest.fixture(scope="module", params=TINY)
def declared(
    request: pytest.FixtureRequest, tiny_model: Callable[[Builder], Path], prompts: Path
) -> tuple[str, ComfyUI]:
    """A family, and what its file says of ComfyUI."""
    builder = BUILDERS[TINY[request.param]]
    network: Any = load_teacher(builder.teacher(tiny_model(builder), prompts))
    return request.param, network.comfyui


def test_a_model_has_comfyuis_names_which_diffusers_converters_read(
    declared: tuple[str, ComfyUI],
) -> None:
    family, comfyui = declared
    weights, _ = model(family)
    network: Any = SimpleNamespace(backbone=SimpleNamespace(state_dict=lambda: weights))
    own, names = backbone_weights(network, comfyui), Names(family, weights)
    pinned = names.own(weights) | names.own(weights, "bias")
    assert all(torch.equal(own[name], value) for name, value in pinned.items())
    if family not in CONVERTERS:
        others = Names(family, weights, "others")
        pinned |= others.own(weights) | others.own(weights, "bias")
        found = {name.replace(".scale", ".weight"): value for name, value in own.items()}
        assert found.keys() == pinned.keys()
        assert all(torch.equal(found[name], value) for name, value in pinned.items())
        return
    made = CONVERTERS[family](dict(own))
    assert made.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in made.items())


@pytest.mark.parametrize("some", [lambda name: True, lambda name: not name.endswith("to_k")])
def test_adapters_under_comfyuis_names_change_the_same_rows(
    declared: tuple[str, ComfyUI], some: Callable[[str], bool]
) -> None:
    """Also where a part of those that ComfyUI has as one module has no adapter."""
    family, comfyui = declared
    weights, linear = model(family)
    lora, rng = {}, torch.Generator().manual_seed(0)
    for module in filter(some, linear):
        shapes = {"A": (2, 1), "B": (len(weights[f"{module}.weight"]), 2)}
        lora |= {
            f"{module}.lora_{each}.weight": torch.randn(*shape, generator=rng, dtype=torch.float64)
            for each, shape in shapes.items()
        }
    network: Any = SimpleNamespace(backbone=SimpleNamespace(state_dict=lambda: weights), lora=lora)
    file = adapters(network, comfyui)
    assert file is not None
    added = Names(family, weights).added(file)
    for module in linear:
        found, expected = added[module], torch.zeros_like(weights[f"{module}.weight"])
        if some(module):
            expected = lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]
        torch.testing.assert_close(found, expected, msg=module)
