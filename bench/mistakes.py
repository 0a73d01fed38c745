"""What people type by mistake, and the line that each mistake gives.

Run `python -m bench.mistakes`: it puts the table into docs/troubleshooting.md.
"""

import re
import shlex
from contextlib import chdir, redirect_stderr
from io import StringIO
from pathlib import Path

from pipeline.cli import main
from pipeline.cli.jobs import JOBS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
HEAD = "| typed | the line that comes |\n|---|---|\n"

TYPED = """
distill --pretrained_teacher_model stabilityai/sdxl
distill --learning_rate 1e-5
distill --train_batch_size 8
distill --gradient_accumulation_steps 4
distill --max_train_steps 1000
distill --validation_prompts "a red fox"
distill --resume_from_checkpoint latest
distill --use_8bit_adam
distill --gradient_checkpointing
distill --use_ema
distill --lora_rank 64
distill --resolution 1024
distill --output_dir my-run
distill --report_to wandb
distill --push_to_hub
distill --generator_lr 1e-5
distill --num_gpus 8
distill --steps 500
distill --distill.step 500
distill --distill.gan.wieght 0.1
distill --distill.critic 1e-4
distill --distill.terms.overshoot.weight 1
distill --distill.student.times 249,999
distill --distill.batch_size 100 --distill.lanes 8
distill --distill.workers.max 8 --distill.lanes 2
distill --distill.precision fp16
distill --distill.steps 2.5
distill steps=500
pairs --pairs.count 10,000
pairs --pairs.count 5100
evaluate --evaluate.features clip
export --push-to-hub my-model
report --report.run runs/digits
distill --config configs/digit.yaml
""".strip().splitlines()
"""A job and its arguments, a line each."""


def answer(typed: str) -> str:
    """The one line that a command gives.

    Raises:
        AssertionError: If it is not refused in one line.
    """
    name, *arguments = shlex.split(typed)
    named = "--config" in arguments
    config = [] if named else ["--config", "configs/digits.yaml"]
    said = StringIO()
    with chdir(ROOT), redirect_stderr(said):
        code = main(JOBS[name], [*config, *arguments, "--dry-run"])
    line = said.getvalue()
    assert code == 2 and line.count("\n") == 1, (typed, code, line)
    return line.rstrip("\n")


def table() -> str:
    """Every mistake beside its line, as Markdown."""
    rows = (f"| `jobs/{_job(typed)}` | `{_cell(answer(typed))}` |\n" for typed in TYPED)
    return HEAD + "".join(rows)


def _job(typed: str) -> str:
    return typed.replace(" ", ".py ", 1)


def _cell(line: str) -> str:
    return line.replace("`", "'").replace("|", "\\|")


if __name__ == "__main__":
    old = re.compile(re.escape(HEAD) + r"(?:\|.*\n)*")
    PAGE.write_text(old.sub(lambda _: table(), PAGE.read_text()))
