"""All jobs by name, and the command `ray-dmd` that runs them."""

import argparse
import sys

from pipeline import cli
from pipeline.cli import options
from pipeline.cli.job import Job
from pipeline.utils.errors import UserError

_DIGITS = "--config configs/digits.yaml"

JOBS = {
    "icons": Job(
        "pipeline.stages.icons:make_icons",
        "Draw colour icons with captions: images for a small text-to-image teacher.",
        reads=("icons",),
        writes=("icons",),
        examples=("--config configs/icons.yaml", "--run runs/icons --icons.size 64"),
    ),
    "teacher": Job(
        "pipeline.cluster.teacher:make_teacher",
        "Train a small teacher on real images, or import one: an EDM file, or a model in one file.",
        reads=("teacher", "teacher.training", "data", "network"),
        writes=("teacher",),
        examples=(
            _DIGITS,
            "--run runs/edm --import edm-cifar10-32x32-uncond-vp.pkl",
            "--config configs/icons.yaml",
        ),
    ),
    "pairs": Job(
        "pipeline.cluster.pairs:make_pairs",
        "Make teacher pairs (noise, image) with a pool of Ray Data actors.",
        reads=("pairs", "teacher.output", "teacher.prompts", "teacher.buckets"),
        writes=("pairs",),
        instead={
            "inspect": Job(
                "pipeline.stages.verify:inspect",
                "Print the manifest of a set as a table, and draw its first pairs.",
            ),
            "verify": Job(
                "pipeline.stages.verify:verify", "Read every pair of a set again and check it."
            ),
        },
        examples=(
            _DIGITS,
            "--config configs/sdxl.yaml --run /shared/sdxl --pairs.actors.max 8",
            "--run /shared/sdxl --verify --pairs.resolve 20",
        ),
    ),
    "encode": Job(
        "pipeline.cluster.encode:encode_images",
        "Encode real images into a set of latents (or pixels), with a pool of Ray Data actors.",
        reads=("encode", "teacher.output"),
        writes=("encode",),
        instead={
            "inspect": Job(
                "pipeline.stages.verify:inspect_real",
                "Print the manifest of a set of real images as a table, and draw its first ones.",
            ),
            "verify": Job(
                "pipeline.stages.verify:verify_real",
                "Read every real image of a set again and check it.",
            ),
        },
        examples=(
            "--config configs/sdxl.yaml --encode.source s3://bucket/photos --teacher.prompts null",
            "--config configs/sdxl.yaml --inspect",
        ),
    ),
    "embed": Job(
        "pipeline.cluster.embed:embed_prompts",
        "Embed prompts into a set of conditions, which training reads in place of text encoders.",
        reads=("embed", "teacher.output", "teacher.prompts", "teacher.negative_prompt"),
        writes=("embed",),
        instead={
            "inspect": Job(
                "pipeline.stages.verify_conditions:inspect_conditions",
                "Print the manifest of a set as a table, and the shapes of its first conditions.",
            ),
            "verify": Job(
                "pipeline.stages.verify_conditions:verify_conditions",
                "Read every condition of a set again and check it.",
            ),
        },
        examples=(
            "--config configs/qwen-image-4-step.yaml --embed.actors.gpus 1",
            "--config configs/qwen-image-4-step.yaml --verify",
        ),
    ),
    "distill": Job(
        "pipeline.cluster.distill:distill",
        "Distil the teacher into a student of one or a few steps with Ray Train.",
        reads=("distill",),
        writes=("distill",),
        examples=(
            _DIGITS,
            "--config configs/sdxl.yaml --run /shared/sdxl --distill.workers.max 8 --dry-run",
            "--config configs/sdxl-lora.yaml --distill.steps 500 --distill.student.lora.rank 32",
        ),
    ),
    "export": Job(
        "pipeline.stages.export:export",
        "Save the student of a checkpoint as a diffusers folder, also of a run that still goes on.",
        reads=("export",),
        writes=("export",),
        examples=(
            "--run runs/digits",
            "--run /shared/sdxl --export.step 5000 --export.variant fp16",
            "--run /shared/sdxl --push-to-hub me/sdxl-one-step",
        ),
    ),
    "evaluate": Job(
        "pipeline.cluster.evaluate:evaluate_student",
        "Judge a student: figures and a picture beside its teacher and the real images, and a "
        "report.",
        reads=("evaluate", "report"),
        writes=("evaluate", "report"),
        then="pipeline.report.page:report",
        examples=(
            _DIGITS,
            "--config configs/sdxl.yaml --run /shared/sdxl --evaluate.reference data/coco",
        ),
    ),
    "report": Job(
        "pipeline.report.page:report",
        "Make one HTML page of a run, also of one that still goes on, or of several side by side.",
        reads=("report",),
        writes=("report",),
        words="report.runs",
        examples=("runs/digits", "runs/one runs/two --report.output both.html"),
    ),
    "sample": Job(
        "pipeline.stages.sample:sample",
        "Make a sheet of one-step images of a student, or a page to play with it and its teacher.",
        reads=("sample", "evaluate.student"),
        writes=("sample",),
        instead={
            "interactive": Job(
                "pipeline.gallery.server:gallery",
                "Serve a page where one chooses class or prompt and walks through noise.",
            ),
        },
        examples=("--run runs/digits", "--run runs/digits --interactive"),
    ),
    "doctor": Job(
        "pipeline.cluster.doctor:doctor",
        "Check inputs, cluster, teacher, stores and memory before a run; estimate time and cost.",
        reads=("doctor",),
        writes=("pairs", "distill"),
        instead={
            "recipes": Job(
                "pipeline.stages.recipes:list_recipes",
                "List the recipes in configs/: teacher, what each needs, the GPUs that it fits.",
            ),
        },
        examples=(_DIGITS, "--config configs/sdxl.yaml --run /shared/sdxl --doctor.gpu_hour 2.5"),
    ),
}
"""What each script in `jobs/` runs."""


def run(name: str) -> int:
    """A job, as its script in `jobs/`; see `main`."""
    return cli.main(JOBS[name], prog=f"python jobs/{name}.py")


def ray_dmd() -> int:
    """`ray-dmd JOB ...`: the same as its script; without a job, a list of them."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in JOBS:
        return cli.main(JOBS[name], words, f"ray-dmd {name}")
    try:
        print(_answer(name, words))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _answer(name: str, words: list[str]) -> str:
    if name in ("-h", "--help"):
        listed = "".join(f"  {name:<10}{job.help}\n" for name, job in JOBS.items())
        return f"""usage: ray-dmd JOB [--config FILE] [--SETTING VALUE ...]

{listed}
ray-dmd JOB --help explains its settings; eval "$(ray-dmd --completion bash)" completes them."""
    if name == "--completion":
        return _completion(*words[:1])
    raise UserError(f"{name}: no such job; name one of {', '.join(JOBS)}")


def _completion(shell: str = "") -> str:
    """What a shell runs to complete jobs and their settings; raises UserError if it cannot."""
    try:
        import shtab
    except ImportError:
        raise UserError("--completion: needs shtab; install the extra `completion`") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise UserError(f"--completion: {shell or 'nothing'} is no shell; name one of {known}")
    parser = argparse.ArgumentParser("ray-dmd")
    jobs = parser.add_subparsers()
    for name, job in JOBS.items():
        settings = options.parser(job, everything=True)
        jobs.add_parser(name, parents=[settings], add_help=False, help=job.help)
    return str(shtab.complete(parser, shell))
