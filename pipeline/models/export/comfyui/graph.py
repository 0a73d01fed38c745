"""A student's graph for ComfyUI, from prompt to picture, in the format of its API."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import torch

from pipeline.diffusion.noise import VP
from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.comfyui import ComfyUI

Graph = dict[str, dict[str, Any]]
_LOADERS = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader"}
"""By the number of text encoders."""


def workflow(network: Any, comfyui: ComfyUI, files: Mapping[str, Any], name: str) -> Graph:
    """The graph; ComfyUI's canvas reads it too.

    `ManualSigmas` names the times at which the network is asked, whatever the model's own shift is:
    that moves the times of ComfyUI's schedules alone, and no network is told of it.

    Args:
        network: A student that `check_comfyui` lets pass.
        comfyui: Of its family.
        files: Names of "unet", "vae", of all "clips", and of "lora" where there is one.
        name: Of the pictures or videos.
    """
    sides = dict(zip(network.axes, network.size, strict=True))
    sides = {"length" if axis == "num_frames" else axis: side for axis, side in sides.items()}
    nodes = {
        "unet": _node("UNETLoader", unet_name=files["unet"], weight_dtype="default"),
        **_with_lora(files.get("lora")),
        "vae": _node("VAELoader", vae_name=files["vae"]),
        **_prompt(comfyui, files["clips"]),
        "latents": _node(comfyui.latents, **sides, batch_size=1),
        "solver": _node("KSamplerSelect", sampler_name=solver(network.sampler)),
        "times": _node("ManualSigmas", sigmas=sigmas(network.sampler)),
        "image": _node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        **_save(comfyui, name),
    }
    condition = "guidance" if "guidance" in nodes else "prompt"
    nodes["sampler"] = _node(
        "SamplerCustom",
        model=["lora" if "lora" in nodes else "unet", 0],
        add_noise=True,
        noise_seed=0,
        cfg=1.0,
        positive=[condition, 0],
        negative=[condition, 0],  # not asked at cfg 1
        sampler=["solver", 0],
        sigmas=["times", 0],
        latent_image=["latents", 0],
    )
    return _numbered(nodes)


def solver(sampler: FewStepSampler) -> str:
    """The sampler of ComfyUI that steps as a student does.

    `lcm` diffuses x0 to the next time with fresh noise; `euler` keeps the noise.
    """
    return "lcm" if sampler.renoise and len(sampler.timesteps) > 1 else "euler"


def sigmas(sampler: FewStepSampler) -> str:
    """A student's times as ComfyUI's noise levels, and 0: t of a flow, else sigma / alpha."""
    levels = list(sampler.timesteps)
    if isinstance(schedule := sampler.schedule, VP):
        times = torch.tensor(sampler.timesteps, dtype=torch.float64)
        levels = (schedule.sigma(times) / schedule.alpha(times)).tolist()
    assert all(map(math.isfinite, levels))
    return ", ".join(f"{Decimal(repr(float(level))):f}" for level in [*levels, 0.0])


def _with_lora(file: str | None) -> Graph:
    if file is None:
        return {}
    inputs = {"model": ["unet", 0], "lora_name": file, "strength_model": 1.0}
    return {"lora": _node("LoraLoaderModelOnly", **inputs)}


def _prompt(comfyui: ComfyUI, clips: list[str]) -> Graph:
    """From text encoders to what the network is told."""
    names = {f"clip_name{i}": clip for i, clip in enumerate(clips, 1)}
    if len(clips) == 1:
        names = {"clip_name": clips[0]}
    kind = {} if len(clips) == 3 else {"type": comfyui.type}
    node, inputs = comfyui.prompt
    nodes, clip = {"clip": _node(_LOADERS[len(clips)], **names, **kind)}, "clip"
    if comfyui.padding is not None:
        padding, length = comfyui.padding
        options = {"min_padding": padding, "min_length": length}
        nodes["tokens"], clip = _node("T5TokenizerOptions", clip=["clip", 0], **options), "tokens"
    nodes["prompt"] = _node(node, clip=[clip, 0], **inputs)
    if comfyui.guidance is not None:
        told = {"conditioning": ["prompt", 0], "guidance": comfyui.guidance}
        nodes["guidance"] = _node("FluxGuidance", **told)
    return nodes


def _save(comfyui: ComfyUI, name: str) -> Graph:
    if comfyui.fps is None:
        return {"save": _node("SaveImage", images=["image", 0], filename_prefix=name)}
    file = {"filename_prefix": name, "format": "auto", "codec": "auto"}
    return {
        "video": _node("CreateVideo", images=["image", 0], fps=float(comfyui.fps)),
        "save": _node("SaveVideo", video=["video", 0], **file),
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _numbered(nodes: Mapping[str, dict[str, Any]]) -> Graph:
    """The same graph with numbers for names: ComfyUI's canvas takes no others."""
    numbers = {name: str(number) for number, name in enumerate(nodes, 1)}
    return {
        numbers[name]: {
            "class_type": node["class_type"],
            "inputs": {
                key: [numbers[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            },
        }
        for name, node in nodes.items()
    }
