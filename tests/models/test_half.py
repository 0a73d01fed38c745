"""Networks that compute in bfloat16; the laws of all families are in tests/families."""

import copy

import torch

from pipeline.models.half import HALF, compute_in_half
from pipeline.models.loading import load_teacher
from tests.families.builders import BUILDERS
from tests.fixtures.tiny_models import save_tiny


def test_what_diffusers_keeps_in_float32_stays(tmp_path):
    builder = BUILDERS["wan"]
    prompts = tmp_path / "some.prompts"
    prompts.write_text('"a cat"\n')
    teacher = load_teacher(builder.teacher(save_tiny(tmp_path / "model", "wan"), prompts))
    ours = copy.deepcopy(teacher)
    compute_in_half(ours)
    theirs = type(teacher.backbone).from_pretrained(
        tmp_path / "model", subfolder="transformer", torch_dtype=HALF
    )
    for name, weight in theirs.named_parameters():
        assert torch.equal(weight, ours.backbone.get_parameter(name)), name
        assert weight.dtype == ours.backbone.get_parameter(name).dtype, name
    assert {each.dtype for each in ours.parameters()} == {HALF, torch.float32}
    assert all(each.dtype == torch.float32 for each in teacher.parameters())
