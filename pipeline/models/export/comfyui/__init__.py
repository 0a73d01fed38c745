"""A student for ComfyUI: its model or its adapters in a file, a workflow, and how to use them.

What ComfyUI knows of its family, and by which names, stands in the family's file (`comfyui`).
"""

import json
from pathlib import Path
from typing import Any

from pipeline.models.comfyui import ComfyUI
from pipeline.models.export.comfyui.experts import experts
from pipeline.models.export.comfyui.graph import Files, solver, workflow
from pipeline.models.export.comfyui.weights import adapters, backbone_weights, encoder_weights, save

Copies = dict[str, str]
"""Files in a student's folder -> where they go in `ComfyUI/models`."""
FOLDER = "comfyui"
TEACHER = "teacher"
"""Stands in a workflow for the model that adapters are added to, or whose VAE is taken."""


def save_comfyui(network: Any, folder: Path, name: str) -> str:
    """Write what ComfyUI needs of a student, and a workflow, into `comfyui/`.

    A UNet comes with its text encoders, and with its adapters as a LoRA beside it. Of a
    transformer that learnt by adapters there is the LoRA alone: the workflow adds it to the
    teacher's own file. Of two experts each has its own file; one that no step asks has none. Text
    encoders and VAEs that are published for ComfyUI are not written.

    Args:
        network: A student that `check_comfyui` lets pass.
        folder: Its diffusers folder.
        name: Of the files in ComfyUI's folders, without ending.

    Returns:
        How they are installed, in Markdown.
    """
    comfyui: ComfyUI = network.comfyui
    (folder / FOLDER).mkdir()
    loras = _save_loras(network, folder, name) if network.lora else {}
    added = {} if comfyui.kohya else loras
    models = {} if added else _save_models(network, folder, name)
    clips = {} if comfyui.encoders else _save_clips(network, folder, name)
    teachers = [f"{TEACHER}{each.end}.safetensors" for each in experts(network)]
    vae, vaes = comfyui.vae or teachers[0], {}
    if comfyui.vae is None and not comfyui.checkpoint:
        vae = f"{name}-vae.safetensors"
        vaes = {"vae/diffusion_pytorch_model.safetensors": f"vae/{vae}"}
    encoders = _names(clips) or comfyui.encoders
    files = Files(_names(models) or teachers, _names(added), encoders, vae)
    graph = json.dumps(workflow(network, comfyui, files, name), indent=2)
    (folder / FOLDER / "workflow.json").write_text(f"{graph}\n")
    return _how(network, comfyui, {**added, **models, **clips, **vaes}, [*loras])


def _names(copies: Copies) -> list[str]:
    """What files are called in ComfyUI's folders."""
    return [target.rpartition("/")[2] for target in copies.values()]


def _save_models(network: Any, folder: Path, name: str) -> Copies:
    """The weights of each network that a step asks."""
    copies = {}
    for expert in experts(network):
        file = f"{name}{expert.end}.safetensors"
        weights = backbone_weights(network, network.comfyui, expert.begin)
        save(weights, folder / FOLDER / file, network.comfyui.dtype)
        copies[f"{FOLDER}/{file}"] = f"diffusion_models/{file}"
    return copies


def _save_loras(network: Any, folder: Path, name: str) -> Copies:
    """The LoRA files that ComfyUI takes: those of diffusers, or its own."""
    copies = {}
    for expert in experts(network):
        own, file = f"{name}{expert.end}", expert.lora
        if (found := adapters(network, network.comfyui, expert.begin)) is not None:
            file = f"{FOLDER}/{own}-lora.safetensors"
            save(found, folder / file, network.comfyui.dtype)
        copies[file] = f"loras/{own}.safetensors"
    return copies


def _save_clips(network: Any, folder: Path, name: str) -> Copies:
    """The text encoders."""
    encoders, copies = network.frozen.text_encoders, {}
    for number, encoder in enumerate(encoders, 1):
        file = f"{name}-clip{f'-{number}' if len(encoders) > 1 else ''}.safetensors"
        save(encoder_weights(encoder), folder / FOLDER / file, network.comfyui.dtype)
        copies[f"{FOLDER}/{file}"] = f"text_encoders/{file}"
    return copies


def _how(network: Any, comfyui: ComfyUI, copies: Copies, loras: list[str]) -> str:
    lines = "".join(f"cp {source} ComfyUI/models/{target}\n" for source, target in copies.items())
    parts = [f"## ComfyUI\n\n```bash\n{lines}```"]
    if comfyui.encoders:
        published = {"vae": comfyui.vae, "clip_vision": comfyui.vision}
        named = ", ".join(f"`{file}`" for file in comfyui.encoders)
        named += "".join(f", in `models/{k}` `{file}`" for k, file in published.items() if file)
        places = " and ".join(comfyui.source)
        parts.append(f"In `ComfyUI/models/text_encoders` it needs {named}, of {places}.")
    times = ", then ".join(f"`{each.sigmas}`" for each in experts(network))
    parts.append(
        f"Then load `{FOLDER}/workflow.json` (drag it onto the canvas)"
        f"{_choices(comfyui, bool(loras) and loras[0] in copies)}. It takes the steps "
        f"that this model learnt: {times} in `ManualSigmas`, `"
        f"{solver(network.sampler)}` in `KSamplerSelect`, cfg 1. Other samplers or steps are not "
        "what it learnt."
    )
    if loras and loras[0] not in copies:
        parts.append(
            f"`{loras[0]}` has what was learnt alone: in `ComfyUI/models/loras`, with "
            "`LoraLoaderModelOnly` at strength 1 behind the teacher's model, and the same steps."
        )
    return "\n\n".join(parts)


def _choices(comfyui: ComfyUI, added: bool) -> str:
    """What one chooses in a workflow."""
    chosen = ""
    if added or comfyui.checkpoint:
        loader = "CheckpointLoaderSimple" if comfyui.checkpoint else "UNETLoader"
        chosen = f", choose your file of the teacher in `{loader}`"
    if "photo" in comfyui.more:
        chosen += f"{' and' if chosen else ', choose'} your picture in `LoadImage`"
    return chosen
