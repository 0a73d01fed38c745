"""Images or videos of a student."""

from pathlib import Path

import torch

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.diffusion import seeds
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.utils.files import check_writable
from pipeline.utils.image_grid import save_grid

_WIDTH = 10
"""Images in a row."""


def sample(config: Config) -> None:
    """Save a sheet of images as a PNG; a conditional student goes through its classes.

    The images follow from the seed and their number alone: a longer sheet begins like a shorter.

    Raises:
        UserError: If the student cannot be loaded or the file cannot be written.
    """
    output = Path(config.sample.output)
    check_writable(output.parent, "sample.output")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    local = fetch_inputs(config, "evaluate")
    student = load_student(
        local.evaluate.student, local.teacher, local.distill.student.embedded_guidance
    ).to(device)
    ids = torch.arange(config.sample.count)
    noise = seeds.noise(config.seed, ids, student.shape, stream=seeds.EVALUATION)
    labels = None if student.classes is None else ids.to(device) % student.classes
    images = student.decode(sample_student(student, noise.to(device), labels))
    rows = {f"{first}": images[first : first + _WIDTH] for first in range(0, len(ids), _WIDTH)}
    headings = []
    if labels is not None and _WIDTH % (student.classes or 1) == 0:
        headings = [f"{label}" for label in labels[:_WIDTH].tolist()]
    save_grid(rows, output, columns=headings)
    steps = len(student.sampler.timesteps)
    told = "1 step" if steps == 1 else f"{steps} steps"
    kind = "images" if images.ndim == 4 else "videos"
    print(f"sample   {len(images)} {kind}, {told} each: {output}")
