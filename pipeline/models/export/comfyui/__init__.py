"""A student for ComfyUI: its model or its adapters in a file, a workflow, and how to use them.

What ComfyUI knows of its family, and by which names, stands in the family's file (`comfyui`).
"""

import json
from pathlib import Path
from typing import Any

from pipeline.models.comfyui import ComfyUI
from pipeline.models.export.comfyui.graph import sigmas, solver, workflow
from pipeline.models.export.comfyui.weights import adapters, backbone_weights, encoder_weights, save
from pipeline.models.lora import FILE as LORA

FOLDER = "comfyui"
TEACHER = "teacher.safetensors"
"""Stands in a workflow for the model that adapters are added to."""


def save_comfyui(network: Any, folder: Path, name: str) -> str:
    """Write what ComfyUI needs of a student, and a workflow, into `comfyui/`.

    A UNet comes with its text encoders, and with its adapters as a LoRA beside it. Of a
    transformer that learnt by adapters there is the LoRA alone: the workflow adds it to the
    teacher's own file. Text encoders and VAEs that are published for ComfyUI are not written.

    Args:
        network: A student that `check_comfyui` lets pass.
        folder: Its diffusers folder.
        name: Of the files in ComfyUI's folders, without ending.

    Returns:
        How they are installed, in Markdown.
    """
    comfyui: ComfyUI = network.comfyui
    (folder / FOLDER).mkdir()
    lora = _save_lora(network, comfyui, folder, name) if network.lora else None
    added = None if comfyui.kohya else lora
    clips = _clips(network, comfyui, name)
    files = {
        "unet": TEACHER if added else f"{name}.safetensors",
        "clips": clips,
        "vae": comfyui.vae or f"{name}-vae.safetensors",
        "lora": f"{name}.safetensors" if added else None,
    }
    copies = {added: f"loras/{name}.safetensors"} if added else {}
    if not added:
        unet = f"{FOLDER}/{files['unet']}"
        save(backbone_weights(network, comfyui), folder / unet, comfyui.dtype)
        copies[unet] = f"diffusion_models/{files['unet']}"
    if not comfyui.encoders:
        for encoder, clip in zip(network.frozen.text_encoders, clips, strict=True):
            save(encoder_weights(encoder), folder / FOLDER / clip, comfyui.dtype)
            copies[f"{FOLDER}/{clip}"] = f"text_encoders/{clip}"
    if comfyui.vae is None:
        copies["vae/diffusion_pytorch_model.safetensors"] = f"vae/{files['vae']}"
    graph = json.dumps(workflow(network, comfyui, files, name), indent=2)
    (folder / FOLDER / "workflow.json").write_text(f"{graph}\n")
    return _how(network, comfyui, copies, lora)


def _clips(network: Any, comfyui: ComfyUI, name: str) -> list[str]:
    """Files of the text encoders."""
    if comfyui.encoders:
        return list(comfyui.encoders)
    count = len(network.frozen.text_encoders)
    numbers = [""] if count == 1 else [f"-{number + 1}" for number in range(count)]
    return [f"{name}-clip{number}.safetensors" for number in numbers]


def _save_lora(network: Any, comfyui: ComfyUI, folder: Path, name: str) -> str:
    """The LoRA file that ComfyUI takes, in the folder: that of diffusers, or one of its own."""
    found = adapters(network, comfyui)
    if found is None:
        return LORA
    file = f"{FOLDER}/{name}-lora.safetensors"
    save(found, folder / file, comfyui.dtype)
    return file


def _how(network: Any, comfyui: ComfyUI, copies: dict[str, str], lora: str | None) -> str:
    lines = "".join(f"cp {source} ComfyUI/models/{target}\n" for source, target in copies.items())
    parts = [f"## ComfyUI\n\n```bash\n{lines}```"]
    if comfyui.encoders:
        named = ", ".join(f"`{file}`" for file in comfyui.encoders)
        vae = f", in `models/vae` `{comfyui.vae}`" if comfyui.vae else ""
        places = " and ".join(comfyui.source)
        parts.append(f"In `ComfyUI/models/text_encoders` it needs {named}{vae}, of {places}.")
    own = ", choose your file of the teacher in `UNETLoader`" if lora in copies else ""
    parts.append(
        f"Then load `{FOLDER}/workflow.json` (drag it onto the canvas){own}. It takes the steps "
        f"that this model learnt: `{sigmas(network.sampler)}` in `ManualSigmas`, `"
        f"{solver(network.sampler)}` in `KSamplerSelect`, cfg 1. Other samplers or steps are not "
        "what it learnt."
    )
    if lora and lora not in copies:
        parts.append(
            f"`{lora}` has what was learnt alone: in `ComfyUI/models/loras`, with "
            "`LoraLoaderModelOnly` at strength 1 behind the teacher's model, and the same steps."
        )
    return "\n\n".join(parts)
