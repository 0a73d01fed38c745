"""What is wrong with a setting, in one line that names it and the way out."""

import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from pydantic_core import ErrorDetails

ELSEWHERE = {
    "adam_beta1": "AdamW's betas are those of the paper, 0.9 and 0.999",
    "adam_beta2": "AdamW's betas are those of the paper, 0.9 and 0.999",
    "adam_weight_decay": "AdamW's weight decay is that of the paper, 0.01",
    "allow_tf32": "PyTorch's defaults hold; distill.precision bf16 is faster",
    "checkpointing_steps": "use distill.checkpoint_every",
    "checkpoints_total_limit": "use distill.keep",
    "conditioning_dropout_prob": "guidance is the teacher's own: use pairs.guidance",
    "dataloader_num_workers": "nothing to set: microbatches are drawn ahead by a thread",
    "dataset_name": "use encode.source, a folder of images",
    "dfake_gen_update_ratio": "use distill.student.every",
    "diffusion_gan": "use distill.gan.student_weight and distill.gan.critic_weight",
    "dm_loss_weight": "use distill.matching.weight",
    "ema_decay": "use distill.ema",
    "enable_xformers_memory_efficient_attention": "use distill.attention",
    "eval_steps": "use distill.sample_every",
    "gen_cls_loss_weight": "use distill.gan.student_weight",
    "gradient_accumulation_steps": "use distill.lanes, the microbatches of a batch",
    "gradient_checkpointing": "use distill.recompute",
    "guidance_scale": "use pairs.guidance",
    "hub_model_id": "use export.push",
    "instance_data_dir": "use encode.source",
    "learning_rate": "use distill.student.lr and distill.critic.lr",
    "logging_dir": "use run: TensorBoard's files are in its folder",
    "logging_steps": "use distill.log_every",
    "lora_alpha": "use distill.student.lora.alpha and distill.critic.lora.alpha",
    "lora_rank": "use distill.student.lora.rank and distill.critic.lora.rank",
    "lr": "use distill.student.lr and distill.critic.lr",
    "lr_scheduler": "nothing to set: rates are constant after distill.warmup steps, but for the "
    "regression phase, half a cosine",
    "lr_warmup_steps": "use distill.warmup",
    "max_grad_norm": "use distill.clip",
    "max_train_samples": "use pairs.count",
    "max_train_steps": "use distill.steps",
    "mixed_precision": "use distill.precision, fp32 or bf16",
    "negative_prompt": "use teacher.negative_prompt",
    "num_inference_steps": "use pairs.steps for the teacher; the student has distill.student.times",
    "num_machines": "start a Ray cluster, and use distill.workers.max",
    "num_processes": "use distill.workers.max",
    "num_train_epochs": "use distill.steps",
    "optimizer": "use distill.optimizer",
    "output_dir": "use run",
    "pretrained_model_name_or_path": "use teacher.output, a folder of diffusers",
    "pretrained_teacher_model": "use teacher.output, a folder of diffusers",
    "rank": "use distill.student.lora.rank and distill.critic.lora.rank",
    "real_guidance_scale": "use pairs.guidance",
    "report_to": "use distill.wandb; TensorBoard's files are always there",
    "resolution": "use teacher.image_size, and encode.size for real images",
    "resume": "nothing to set: a run that is started again goes on from its newest checkpoint",
    "resume_from_checkpoint": "nothing to set: a run that is started again goes on from its newest "
    "checkpoint; distill.start_from takes the weights of another",
    "revision": "name it with the model: hf://owner/name@revision",
    "save_steps": "use distill.checkpoint_every",
    "scale_lr": "nothing to set: distill.batch_size is that of all workers together",
    "train_batch_size": "use distill.batch_size, that of all workers together",
    "train_data_dir": "use encode.source",
    "use_8bit_adam": "use distill.optimizer adamw8bit",
    "use_ema": "use distill.ema, the decay of its mean weights",
    "use_fp16": "use distill.precision bf16",
    "validation_epochs": "use distill.sample_every",
    "validation_prompts": "use teacher.prompts, whose first ones are shown every "
    "distill.sample_every steps",
    "validation_steps": "use distill.sample_every",
    "wandb_project": "use distill.wandb",
}
"""Flags of diffusers' training scripts, and of the authors' of DMD2 -> what is here instead."""
_LONGEST = 100
"""Characters of an unknown setting's name that are shown."""


def unknown(key: str, names: Sequence[str]) -> str:
    """What to say of a setting that there is not.

    Args:
        key: Its name as given.
        names: Of all settings, dotted.
    """
    key = key[:_LONGEST]
    if any(name.startswith(f"{key}.") for name in names):
        inside = ", ".join(name for name in names if name.startswith(f"{key}."))
        return f"{key}: a group of settings, not a setting; it has {inside}"
    return f"{key}: unknown setting; {_hint(key, names)}"


def _hint(key: str, names: Sequence[str]) -> str:
    groups = sorted({name.rpartition(".")[0] for name in names} - {""})
    group, _, leaf = key.replace("-", "_").rpartition(".")

    def likeness(name: str) -> float:
        leaves = SequenceMatcher(None, name.rpartition(".")[2], key.rpartition(".")[2])
        return leaves.ratio() + SequenceMatcher(None, name, key).ratio()

    if group in ("", *groups) and (there := ELSEWHERE.get(leaf)):
        return there
    same_leaf = [name for name in names if name.endswith(f".{key}")]
    best = max((*names, *groups), key=likeness)
    if same_leaf:
        return f"did you mean {' or '.join(same_leaf)}?"
    return f"did you mean {best}?" if likeness(best) > 1.2 else "--help-all lists all settings"


def line(errors: Sequence[ErrorDetails], names: Sequence[str]) -> str:
    """Say the first of pydantic's errors: key, value, what is right.

    Args:
        errors: Of `Config`.
        names: Of all settings, dotted.
    """
    own = [each for each in errors if _key(each).startswith(_key(errors[0]))]
    error = max(own, key=lambda each: len(_key(each)))  # of a union, the kind that fits best
    key, kind = _key(error), error["type"]
    value = json.dumps(error["input"], default=str, skipkeys=True)
    value = value if len(value) <= 60 else f"{value[:57]}..."
    reasons = dict.fromkeys(_reason(each) for each in own if _key(each) == key)
    reason = " or ".join(reasons).replace("or must be", "or")
    if kind == "extra_forbidden":
        return unknown(key, names)
    if not key:
        return reason
    if kind == "missing":
        return f"{key}: missing; give it a value"
    if kind.startswith(("greater_than", "less_than")):
        return f"{key}: {value} is out of range: {reason}"
    if value.lower() == '"none"':
        reason += ", or null for none"
    return f"{key}: {value} is not accepted: {reason}"


def _key(error: ErrorDetails) -> str:
    """Of the setting, without the names of types."""
    loc = [p for p in error["loc"] if isinstance(p, int) or p.isidentifier()]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


_PLAIN = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "have at least 1 character": "not be empty",
    " after validation": "",
}
"""Pydantic's words -> those of the help."""


def _reason(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    if kind == "model_type":
        return "must be a group of settings, written {name: value}"
    if kind == "tuple_type":
        item = value if isinstance(value, int | float) or f"{value}".isidentifier() else 1
        return f"must be a list such as [{item}, ...]"
    reason = error["msg"].removeprefix("Value error, ")
    reason = re.sub(r"^(Input|String|Tuple|Dictionary) should", "must", reason)
    for theirs, ours in _PLAIN.items():
        reason = reason.replace(theirs, ours)
    return reason
