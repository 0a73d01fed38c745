"""Attention runs where the setting says, and nowhere else."""

import copy

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.attention_backend import for_training, refusals_named, use_attention
from pipeline.models.denoiser import blank
from pipeline.models.half import compute_in_half
from pipeline.models.loading import load_teacher
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.families.measures import close


@pytest.fixture
def teacher(request, tiny_model, prompts):
    builder = BUILDERS[request.param]
    return load_teacher(builder.teacher(tiny_model(builder), prompts))


class Softmaxes(TorchDispatchMode):
    """Counts what attention without a kernel of its own calls."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func is torch.ops.aten._safe_softmax.default
        self.found += func is torch.ops.aten._softmax.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("teacher", ["flux-dev", "qwen", "wan-experts"], indirect=True)
@torch.no_grad()
def test_a_network_attends_as_told_and_the_others_do_not(teacher):
    def softmaxes(network) -> int:
        with Softmaxes() as seen:
            network(*given)
        return seen.found

    given, other = blank(teacher, 2), copy.deepcopy(teacher)
    before, exact = softmaxes(teacher), teacher(*given)
    use_attention(teacher, "_native_math", "distill.attention")
    assert softmaxes(teacher) > before == softmaxes(other)
    close(teacher(*given), exact, 1e-5)
    assert softmaxes(copy.deepcopy(teacher)) > before
    active, _ = _AttentionBackendRegistry.get_active_backend()
    assert active.value == "native"


@pytest.mark.parametrize("teacher", ["flux-dev"], indirect=True)
def test_a_kernel_of_pytorch_is_learnt_through(teacher):
    compute_in_half(teacher)
    use_attention(teacher, for_training("_native_flash"), "distill.attention")
    teacher.requires_grad_()
    teacher(*blank(teacher, 2)).square().mean().backward()
    assert all(each.grad.isfinite().all() for each in teacher.parameters() if each.grad is not None)


def test_what_has_no_way_back_is_the_teachers_alone():
    assert for_training("_flash_3") == "native" and for_training("flash") == "flash"


@pytest.mark.parametrize("teacher", ["sd1", "sd3"], indirect=True)
def test_a_network_without_a_choice_is_refused(teacher):
    with pytest.raises(UserError, match="^distill.attention: _native_flash is no choice .* native"):
        use_attention(teacher, "_native_flash", "distill.attention")
    use_attention(teacher, "native", "distill.attention")


@pytest.mark.parametrize("teacher", ["flux-dev"], indirect=True)
def test_what_is_not_installed_or_cannot_be_is_refused_by_the_settings_name(teacher):
    for backend in ("flash", "_flash_3"):
        with pytest.raises(UserError, match="^pairs.attention: Flash Attention .* Or use native$"):
            use_attention(teacher, backend, "pairs.attention")
    use_attention(teacher, "_native_cudnn", "pairs.attention")
    told = "^pairs.attention: _native_cudnn cannot take this teacher's attention"
    with pytest.raises(UserError, match=told), refusals_named("_native_cudnn", "pairs.attention"):
        teacher(*blank(teacher, 1))
    with pytest.raises(ValueError, match="else"), refusals_named("flash", "pairs.attention"):
        raise ValueError("something else")
