"""Compiled networks give what they gave, and keep their names."""

import copy

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pipeline.config import LoraConfig, NetworkConfig, StudentConfig
from pipeline.models import compilation
from pipeline.models import recompute as recomputation
from pipeline.models.compilation import blocks_of, compile_network
from pipeline.models.critic import Critic
from pipeline.models.denoiser import Inputs
from pipeline.models.loading import load_teacher
from pipeline.models.students import new_student
from pipeline.models.views import view
from tests.families.builders import BUILDERS

FAMILIES = ("sd1", "sdxl", "ddpm", "song", "dit", "flux-dev", "qwen", "wan", "z-image", "chroma")


@pytest.fixture
def backend(monkeypatch):
    """Chooses one; by itself that which runs what was captured, and takes seconds."""
    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    yield lambda name: monkeypatch.setattr(compilation, "BACKEND", name)
    torch._dynamo.reset()


@pytest.fixture
def teacher(request, tiny_model, prompts):
    builder = BUILDERS[request.param]
    return builder, load_teacher(builder.teacher(tiny_model(builder), prompts))


def critic_of(teacher, recompute: bool | int = 2, lora: LoraConfig | None = None) -> Critic:
    """With a head, and told the step."""
    settings = StudentConfig(lora=lora or LoraConfig())
    torch.manual_seed(0)
    return Critic(new_student(teacher, NetworkConfig(), 0, settings, recompute), exits=2)


def taught(critic: Critic, builder, rows: int = 2) -> list[Tensor]:
    """What it gives, whole and as far as its head, and its gradients; idle weights have none."""
    labels = builder.labels_of(critic.denoiser)
    labels = None if labels is None else labels[:1].expand(rows)
    network = critic.denoiser
    t = network.schedule.start * torch.linspace(0.4, 0.9, rows)
    inputs = Inputs(builder.noise(rows), t, network.conditioner(labels, rows))
    x0, logits = critic.denoise_and_logits(inputs, 0)
    early = critic.logits(inputs, 1)
    (x0.square().mean() + logits.mean() + early.mean()).backward()
    weights = [weight for weight in critic.parameters() if weight.requires_grad]
    found = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    critic.zero_grad()
    gradients = torch.cat([each.flatten() for each in found])
    return [x0.detach(), logits.detach(), early.detach(), gradients]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def off(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("teacher", FAMILIES, indirect=True)
def test_blocks_are_whole_graphs_one_for_each_shape(backend, teacher):
    """Under taps, a vector added in a view, an early end, and recomputation."""
    builder, teacher = teacher
    critic = critic_of(teacher)
    names, expected = list(critic.state_dict()), taught(critic, builder)
    counters.clear()
    compile_network(critic, "blocks")
    assert off(taught(critic, builder), expected) < 1e-5
    assert not counters["graph_break"] and list(critic.state_dict()) == names
    first = graphs()
    taught(critic, builder)
    assert graphs() == first > 0
    taught(critic, builder, rows=1)
    second = graphs()
    assert first < second <= 2 * first
    taught(critic, builder)
    taught(critic, builder, rows=1)
    assert graphs() == second


@pytest.mark.parametrize("teacher", ["ddpm", "flux-dev", "wan-experts"], indirect=True)
def test_a_whole_network_is_one_graph_under_the_same(backend, teacher):
    builder, teacher = teacher
    critic = critic_of(teacher)
    expected = taught(critic, builder)
    counters.clear()
    compile_network(critic, "whole")
    assert off(taught(critic, builder), expected) < 1e-5
    first = graphs()
    taught(critic, builder)
    assert graphs() == first > 0 and not counters["graph_break"]


def saved(critic: Critic, builder) -> int:
    """Bytes that its passes keep for their way back, beside its own weights."""
    weights = {each.data_ptr() for each in critic.parameters()}
    found = {}

    def note(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in weights:
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        taught(critic, builder)
    return sum(found.values())


@pytest.mark.parametrize("teacher", ["sd1", "flux-dev", "qwen", "wan"], indirect=True)
def test_compiled_blocks_compute_themselves_again(backend, teacher):
    """All of them, without a checkpoint around each; the partition is that of inductor."""
    builder, teacher = teacher
    backend("aot_eager_decomp_partition")
    expected, kept = taught(critic_of(teacher, False), builder), []
    for recompute in (False, True):
        torch._dynamo.reset()
        critic = critic_of(teacher, recompute)
        compile_network(critic, "blocks", recompute)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recomputation, "checkpoint", None)
            assert off(taught(critic, builder), expected) < 1e-4, "by decomposed operators"
            kept.append(saved(critic, builder))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.prove  # a C++ compiler takes minutes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("teacher", ["song", "flux-dev"], indirect=True)
def test_compiled_code_computes_the_same(backend, teacher):
    builder, teacher = teacher
    critic = critic_of(teacher)
    expected = taught(critic, builder)
    backend("inductor")
    compile_network(critic, "blocks")
    assert off(taught(critic, builder), expected) < 1e-5


@pytest.mark.parametrize("teacher", ["flux-dev"], indirect=True)
def test_adapters_are_compiled_with_their_blocks(backend, teacher):
    pytest.importorskip("peft")
    builder, teacher = teacher
    critic = critic_of(teacher, lora=LoraConfig(rank=2))
    expected = taught(critic, builder)
    counters.clear()
    compile_network(critic, "blocks")
    assert off(taught(critic, builder), expected) < 1e-5
    assert graphs() and not counters["graph_break"]


@pytest.mark.parametrize("teacher", ["dit"], indirect=True)
def test_copies_are_not_compiled_and_views_are(backend, teacher):
    _, teacher = teacher
    compile_network(teacher, "auto")
    assert not any(block._compiled_call_impl for block in blocks_of(teacher)), "on a CPU"
    compile_network(teacher, "none")
    assert not any(block._compiled_call_impl for block in blocks_of(teacher))
    compile_network(teacher, "blocks")
    assert all(block._compiled_call_impl for block in blocks_of(teacher))
    assert not any(block._compiled_call_impl for block in blocks_of(copy.deepcopy(teacher)))
    block = blocks_of(teacher)[0]
    seen = view(block, {"ff": torch.nn.Identity()})
    assert seen._compiled_call_impl not in (None, block._compiled_call_impl)
    assert block._compiled_call_impl is blocks_of(teacher)[0]._compiled_call_impl


@pytest.mark.parametrize("name", [name for name, each in BUILDERS.items() if each.make])
def test_every_family_has_blocks(name, tiny_model, prompts):
    """Of each list as many as there are; nothing of them stands in another of them."""
    builder = BUILDERS[name]
    network = load_teacher(builder.teacher(tiny_model(builder), prompts))
    blocks = blocks_of(network)
    inner = {each for block in blocks for each in block.modules() if each is not block}
    assert blocks and not inner & {*blocks}
    stages = {network.get_submodule(each) for each in network.stages()}
    assert stages <= {*blocks} or not stages & {*blocks}, "all of a transformer, none of a UNet"
