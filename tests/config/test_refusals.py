"""What is said of a setting that there is not; tests/test_cli.py has the rest, as users see it."""

import re

import pytest
from pydantic import ValidationError

from pipeline.cli.options import names
from pipeline.config import Config, settings_yaml
from pipeline.config.elsewhere import ELSEWHERE
from pipeline.config.refusals import line, unknown
from pipeline.methods.terms import TERMS
from pipeline.utils.fields import Branch, Weight

NAMES = names()
KNOWN = """
pretrained_teacher_model learning_rate train_batch_size gradient_accumulation_steps max_train_steps
validation_prompts resume_from_checkpoint use_8bit_adam gradient_checkpointing use_ema lora_rank
resolution output_dir report_to push_to_hub mixed_precision lr_warmup_steps checkpointing_steps
hub_model_id generator_lr guidance_lr dfake_gen_update_ratio ckpt_only_path log_iters wandb_iters
""".split()
"""Flags that most know, of diffusers' scripts and of DMD2's."""


@pytest.mark.parametrize("flag", ELSEWHERE)
def test_flags_of_other_scripts_lead_to_settings_of_ours(flag: str) -> None:
    assert flag not in NAMES and not any(name.startswith(f"{flag}.") for name in NAMES)
    told = re.findall(r"(?<!/)\b[a-z]+\.[a-z_0-9.]+\b|(?<=^use )run", ELSEWHERE[flag])
    assert set(told) <= set(NAMES)
    assert told or ELSEWHERE[flag].startswith(("nothing to set", "AdamW's", "name it", "set "))
    assert unknown(flag.replace("_", "-"), NAMES).endswith(f"unknown setting; {ELSEWHERE[flag]}")


def test_the_flags_that_most_know_are_among_them() -> None:
    assert set(KNOWN) <= ELSEWHERE.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") > 1])
def test_a_misspelt_setting_is_sought_in_its_own_group_first(name: str) -> None:
    group, _, leaf = name.rpartition(".")
    told = unknown(f"{group}.{leaf[:-1]}{leaf[-1] * 2}", NAMES)
    assert re.search(rf"did you mean {re.escape(group)}\.", told), told


def test_a_misspelt_setting_of_a_term_is_told_with_the_term(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ours:
        class Settings(Branch):
            weight: Weight = 1.0

    monkeypatch.setitem(TERMS, "ours", Ours)
    with pytest.raises(ValidationError) as raised:
        Config.model_validate({"distill": {"terms": {"ours": {"wight": 1}}}})
    (error,) = raised.value.errors()
    assert error["loc"] == ("distill", "terms", "ours", "wight")
    assert unknown("distill.terms.ours.wight", names()).endswith("distill.terms.ours.weight?")


@pytest.mark.parametrize(
    "text, told",
    [
        ("distill.steps: 5", r"distill\.steps: in YAML write distill: \{steps: 5\}"),
        ("distill: {student.lr: 1e-4}", r"write distill: \{student: \{lr: 0\.0001\}\}"),
        ("distill: {batch-size: 4}", r"batch-size: in YAML write distill: \{batch_size: 4\}"),
        ("distill: {ni-x: 4}", r"distill\.ni-x: unknown setting"),
        ("distill: {gan: {real:data}}", "distill.gan.real: .* write real: data"),
        ("distill: {terms: {isg: {weight:-1}}}", r"distill.terms.isg.weight: .* weight: -1"),
        ("{seed:3}", "seed: .* write seed: 3"),
    ],
)
def test_what_yaml_reads_as_another_key_is_named_as_that(text: str, told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Config.model_validate(settings_yaml.read_text(text.encode(), "a.yaml"))
    assert re.search(told, line(raised.value.errors(), NAMES))
