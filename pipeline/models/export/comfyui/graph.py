"""A student's graph for ComfyUI, from prompt to picture, in the format of its API."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.diffusion.sampler import FewStepSampler
from pipeline.models.comfyui import ComfyUI, Link
from pipeline.models.export.comfyui.experts import Expert, experts

Graph = dict[str, dict[str, Any]]
_LOADERS = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader"}
"""By the number of text encoders."""


class Files(NamedTuple):
    """Names in ComfyUI's folders.

    Attributes:
        models: One for each of the student's `experts`.
        loras: As many, or none.
        clips: Of the text encoders.
        vae: Of the VAE, or of the checkpoint that has it.
    """

    models: Sequence[str]
    loras: Sequence[str]
    clips: Sequence[str]
    vae: str


def workflow(network: Any, comfyui: ComfyUI, files: Files, name: str) -> Graph:
    """The graph; ComfyUI's canvas reads it too.

    `ManualSigmas` names the times at which the network is asked, whatever the model's own shift is:
    that moves the times of ComfyUI's schedules alone, and no network is told of it. Of two experts
    the second goes on with what the first leaves, whose noise is in it.

    Args:
        network: A student that `check_comfyui` lets pass.
        comfyui: Of its family.
        files: That are loaded.
        name: Of the pictures or videos.
    """
    sides = dict(zip(network.axes, network.size, strict=True))
    sides = {"length" if axis == "num_frames" else axis: side for axis, side in sides.items()}
    kind, inputs = comfyui.latents
    nodes = {
        **_models(comfyui, files),
        **_prompt(comfyui, files.clips),
        "latents": _node(kind, **inputs, **sides, batch_size=1),
        **{key: _node(kind, **inputs) for key, (kind, inputs) in comfyui.more.items()},
        "solver": _node("KSamplerSelect", sampler_name=solver(network.sampler)),
    }
    latents = comfyui.start
    for number, expert in enumerate(experts(network)):
        nodes |= _steps(number, expert, comfyui, latents, bool(files.loras))
        latents = (f"sampler{number}", 0)
    vae = ("vae", 2 if comfyui.checkpoint else 0)
    nodes["image"] = _node("VAEDecode", samples=latents, vae=vae)
    return _numbered(nodes | _save(comfyui, name))


def solver(sampler: FewStepSampler) -> str:
    """The sampler of ComfyUI that steps as a student does.

    `lcm` diffuses x0 to the next time with fresh noise; `euler` keeps the noise.
    """
    return "lcm" if sampler.renoise and len(sampler.timesteps) > 1 else "euler"


def _models(comfyui: ComfyUI, files: Files) -> Graph:
    """The VAE, and the networks with their adapters; a checkpoint has both, the network first."""
    loader = ("CheckpointLoaderSimple", "ckpt_name")
    kind, key = loader if comfyui.checkpoint else ("VAELoader", "vae_name")
    nodes, whole = {"vae": _node(kind, **{key: files.vae})}, comfyui.checkpoint and files.loras
    for number, file in enumerate(files.models):
        if not whole:
            nodes[f"unet{number}"] = _node("UNETLoader", unet_name=file, weight_dtype="default")
        if files.loras:
            model = ("vae", 0) if whole else (f"unet{number}", 0)
            added = {"lora_name": files.loras[number], "strength_model": 1.0}
            nodes[f"lora{number}"] = _node("LoraLoaderModelOnly", model=model, **added)
    return nodes


def _prompt(comfyui: ComfyUI, clips: Sequence[str]) -> Graph:
    """From text encoders to the tokens of a prompt."""
    names = {f"clip_name{i}": clip for i, clip in enumerate(clips, 1)}
    if len(clips) == 1:
        names = {"clip_name": clips[0]}
    told = {} if len(clips) == 3 else {"type": comfyui.type}
    nodes, clip = {"clip": _node(_LOADERS[len(clips)], **names, **told)}, "clip"
    if comfyui.padding is not None:
        padding, length = comfyui.padding
        options = {"min_padding": padding, "min_length": length}
        nodes["tokens"], clip = _node("T5TokenizerOptions", clip=("clip", 0), **options), "tokens"
    kind, inputs = comfyui.prompt
    return {**nodes, "prompt": _node(kind, clip=(clip, 0), **inputs)}


def _steps(number: int, expert: Expert, comfyui: ComfyUI, latents: Link, lora: bool) -> Graph:
    """Steps of one network from latents on; the first one adds the noise."""
    sampler = _node(
        "SamplerCustom",
        model=(f"{'lora' if lora else 'unet'}{number}", 0),
        add_noise=number == 0,
        noise_seed=number,  # else its fresh noise would be that of the one before
        cfg=1.0,
        positive=comfyui.told,
        negative=comfyui.told,  # not asked at cfg 1
        sampler=("solver", 0),
        sigmas=(f"times{number}", 0),
        latent_image=latents,
    )
    times = _node("ManualSigmas", sigmas=expert.sigmas)
    return {f"times{number}": times, f"sampler{number}": sampler}


def _save(comfyui: ComfyUI, name: str) -> Graph:
    if comfyui.fps is None:
        return {"save": _node("SaveImage", images=("image", 0), filename_prefix=name)}
    file = {"filename_prefix": name, "format": "auto", "codec": "auto"}
    return {
        "video": _node("CreateVideo", images=("image", 0), fps=float(comfyui.fps)),
        "save": _node("SaveVideo", video=("video", 0), **file),
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
                key: [numbers[value[0]], value[1]] if isinstance(value, tuple) else value
                for key, value in node["inputs"].items()
            },
        }
        for name, node in nodes.items()
    }
