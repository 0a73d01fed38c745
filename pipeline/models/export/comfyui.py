"""A student of Stable Diffusion 1 or XL for ComfyUI: its UNet as one file, its LoRA, a workflow.

ComfyUI's `UNETLoader` takes a UNet under diffusers' names and knows it by its shapes, its
`VAELoader` a VAE; its CLIP loaders want all names of an encoder under `text_model`, its LoRA
loaders those that kohya's trainer gives adapters. In one step
of `euler` on the `simple` schedule its sampler starts at the last training time from noise of
variance 1, asks the network once and takes its x0: what the student was trained to give.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.network import Network
from pipeline.utils.errors import UserError

FOLDER = "comfyui"
_PROMPT = "a photo of a cat"
_TIMES = 1000
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_Depths = tuple[tuple[int, ...], int, tuple[int, ...]]
"""Transformers after each residual block: down, in the middle (-1 without any, -2 where there is
no middle), up."""
_KNOWN: dict[str, tuple[_Depths, ...]] = {
    "stable_diffusion": (
        ((1, 1, 1, 1, 1, 1, 0, 0), 1, (0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1)),
        ((0, 1, 1), -2, (1, 1, 1, 1, 0, 0)),  # SDXS
    ),
    "sdxl": (
        ((0, 0, 2, 2, 10, 10), 10, (10, 10, 10, 2, 2, 2, 0, 0, 0)),
        ((0, 0, 2, 2, 4, 4), -1, (4, 4, 10, 2, 1, 1, 0, 0, 0)),  # SSD-1B
        ((0, 0, 1, 1, 2, 2), -1, (2, 2, 2, 1, 1, 1, 0, 0, 0)),  # Segmind-Vega
        ((0, 2, 5), -2, (5, 5, 2, 2, 0, 0)),  # KOALA-700M
        ((0, 2, 6), 6, (6, 6, 2, 2, 0, 0)),  # KOALA-1B
    ),
}
"""By the name of the text encoders: the UNets in ComfyUI's list of diffusers' (`model_detection`).
It looks a file up there by its depths on the way down, and takes the others from the list."""


def check_comfyui(network: Network) -> None:
    """See that ComfyUI knows the family of a network.

    Raises:
        UserError: If it is not Stable Diffusion 1 or XL with its own noise schedule, predicting
            eps, guidance is an input of it, its VAE scales each channel, or its UNet has more or
            fewer blocks than those that ComfyUI knows.
    """
    scheduler = network.pipeline().scheduler.config
    if network.comfyui is None:
        problem = f"the student is a {network.title}"
    elif network.backbone.config.time_cond_proj_dim:
        problem = "the student takes guidance as an input (time_cond_proj_dim)"
    elif (steps := len(network.sampler.timesteps)) > 1:
        problem = f"the student takes {steps} steps"
    elif scheduler.num_train_timesteps != _TIMES:
        problem = f"the student starts at {scheduler.num_train_timesteps - 1}, not at {_TIMES - 1}"
    elif network.prediction != "epsilon":
        problem = f"the student predicts {network.prediction}, not epsilon"
    elif network.latents and not isinstance(network.latents.normaliser.scale, float):
        problem = "the student's VAE has latents_mean and latents_std"
    elif scheduler.get("beta_schedule") != "scaled_linear" or not all(
        math.isclose(scheduler.get(name, math.nan), value) for name, value in _BETAS.items()
    ):
        problem = "the noise schedule of the student is not Stable Diffusion's"
    elif (depths := _depths(network.backbone)) not in _KNOWN[network.comfyui]:
        problem = f"ComfyUI knows no UNet of these transformers down, in the middle, up: {depths}"
    else:
        return
    raise UserError(
        f"export.comfyui: {problem}; Stable Diffusion 1 and XL, with epsilon, can be exported: set "
        "it to false"
    )


def _depths(unet: Any) -> _Depths:
    """Of a `UNet2DConditionModel`."""
    down, up = (
        tuple(depth for block in blocks for depth in _of_block(block))
        for blocks in (unet.down_blocks, unet.up_blocks)
    )
    return down, max(_of_block(unet.mid_block), default=-2) or -1, up


def _of_block(block: Any) -> list[int]:
    """Transformers after each of its residual blocks; empty for no block."""
    if block is None:
        return []
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return [len(getattr(each, "transformer_blocks", ())) for each in attentions]


def save_comfyui(network: Any, folder: Path, name: str) -> str:
    """Write UNet, text encoders and adapters in half precision, and a workflow, into `comfyui/`.

    Args:
        network: A student that `check_comfyui` lets pass.
        folder: Its diffusers folder.
        name: Of the files in ComfyUI's folders, without ending.

    Returns:
        How they are installed, in Markdown.
    """
    (folder / FOLDER).mkdir()
    clips, unet = _encoders(network, name), f"{name}.safetensors"
    _save(network.backbone.state_dict(), folder / FOLDER / unet)
    for encoder, file in zip(network.frozen.text_encoders, clips, strict=True):
        weights = {
            key
            if key.startswith(("text_model.", "text_projection."))
            else f"text_model.{key}": value
            for key, value in encoder.state_dict().items()
        }
        _save(weights, folder / FOLDER / file)
    flow = json.dumps(workflow(network, name), indent=2)
    (folder / FOLDER / "workflow.json").write_text(flow + "\n")
    copies = {f"{FOLDER}/{unet}": f"diffusion_models/{unet}"}
    copies |= {f"{FOLDER}/{file}": f"text_encoders/{file}" for file in clips}
    copies["vae/diffusion_pytorch_model.safetensors"] = f"vae/{name}-vae.safetensors"
    lines = "".join(f"cp {source} ComfyUI/models/{target}\n" for source, target in copies.items())
    how = (
        f"## ComfyUI\n\n```bash\n{lines}```\n\nThen load `{FOLDER}/workflow.json` (drag it "
        "onto the canvas). One step of `euler` on the `simple` schedule at cfg 1: other "
        "samplers or more steps are not what this model learnt."
    )
    if network.lora is None:
        return how
    _save(_adapters(network.lora), folder / FOLDER / (lora := f"{name}-lora.safetensors"))
    return (
        f"{how}\n\n`{FOLDER}/{lora}` has what was learnt alone: in `ComfyUI/models/loras`, with "
        "`LoraLoaderModelOnly` at strength 1 behind the teacher's own model, and the same sampler."
    )


def workflow(network: Any, name: str) -> dict[str, Any]:
    """The graph from prompt to picture, in the format of ComfyUI's API; its canvas reads it too."""
    _, rows, columns = network.shape
    factor = network.latents.factor
    height, width = rows * factor, columns * factor
    clips, size = _encoders(network, name), {"width": width, "height": height}
    if len(clips) == 1:
        loader = _node("CLIPLoader", clip_name=clips[0], type=network.comfyui)
        prompt = _node("CLIPTextEncode", clip=["clip", 0], text=_PROMPT)
    else:
        names = {f"clip_name{number}": file for number, file in enumerate(clips, 1)}
        loader = _node("DualCLIPLoader", **names, type=network.comfyui)
        prompt = _node(
            "CLIPTextEncodeSDXL",
            clip=["clip", 0],
            text_g=_PROMPT,
            text_l=_PROMPT,
            crop_w=0,
            crop_h=0,
            target_width=width,
            target_height=height,
            **size,
        )
    nodes = {
        "unet": _node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default"),
        "clip": loader,
        "vae": _node("VAELoader", vae_name=f"{name}-vae.safetensors"),
        "prompt": prompt,
        "latents": _node("EmptyLatentImage", batch_size=1, **size),
        "sampler": _node(
            "KSampler",
            model=["unet", 0],
            positive=["prompt", 0],
            negative=["prompt", 0],  # not asked at cfg 1
            latent_image=["latents", 0],
            seed=0,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "image": _node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "save": _node("SaveImage", images=["image", 0], filename_prefix=name),
    }
    return _numbered(nodes)


def _encoders(network: Any, name: str) -> list[str]:
    count = len(network.frozen.text_encoders)
    return [
        f"{name}-clip{'' if count == 1 else f'-{number + 1}'}.safetensors"
        for number in range(count)
    ]


def _adapters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each adapter's two matrices and its alpha, which is its rank: the scale is in them."""
    named = {}
    for key, value in weights.items():
        module, _, matrix = key.removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{module.replace('.', '_')}"
        if matrix == "lora_A":
            named[f"{name}.lora_down.weight"] = value
            named[f"{name}.alpha"] = torch.tensor(float(len(value)))
        else:
            named[f"{name}.lora_up.weight"] = value
    return named


def _save(weights: Mapping[str, Tensor], file: Path) -> None:
    half = {key: value.half().contiguous() for key, value in weights.items()}
    save_file(half, file, {"format": "pt"})


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _numbered(nodes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
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
