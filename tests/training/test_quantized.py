"""A run over a base in 8 or 4 bits: it learns, resumes, is counted, and leaves an exact student."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.models.loading import load_teacher
from pipeline.models.lora import FILE
from pipeline.models.quantized import QuantizedLinear
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.runs.run import Run
from pipeline.training import build, loop
from pipeline.training.memory import footprint
from tests.families.builders import BUILDERS
from tests.families.measures import changed, error, learnt, size
from tests.fixtures.trained import digests

FAMILIES = ("sd1", "qwen")
"""A UNet, and a transformer."""


@pytest.fixture(autouse=True)
def _any_precision():
    """Accelerate keeps the first one of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def config(tiny_model, prompts, tmp_path_factory):
    """Makes a run of two steps of a family."""

    def new(family: str, **distill) -> Config:
        builder, lora = BUILDERS[family], {"lr": 0.01, "lora": {"rank": 4}}
        tree = {
            "run": str(tmp_path_factory.mktemp("run")),
            "data": {"name": None},
            "teacher": builder.teacher(tiny_model(builder), prompts).model_dump(mode="json"),
            "distill": {
                **{"steps": 2, "regression_steps": 0, "burn_in_steps": 0, "batch_size": 2},
                **{"regression": {"weight": 0.0, "batch_size": 2}, "warmup": 0},
                **{"checkpoint_every": 1, "sample_every": 2, "log_every": 1},
                **{"student": lora, "critic": lora},
                **distill,
            },
        }
        return fetch_inputs(Config.model_validate(tree), "teacher")

    return new


def finished(config: Config, stops: tuple[int, ...] = ()) -> dict:
    """What a run leaves that stops after some of its steps and goes on."""
    Run(config).claim()
    for step in stops:
        ends = iter([True])
        assert loop.train(config, lambda ends=ends: next(ends)) == step
    assert loop.train(config) == config.distill.steps
    return digests(config)


@pytest.mark.parametrize(("family", "format"), [("sd1", "int8"), ("qwen", "nf4")])
def test_it_resumes_bit_for_bit_and_adds_its_adapters_to_the_exact_teacher(config, family, format):
    whole, broken = (config(family, quantize=format) for _ in range(2))
    assert finished(whole) == finished(broken, stops=(1,))
    folder, teacher = Path(whole.distill.output) / "student", load_teacher(whole.teacher)
    student, exact = load_student(folder, whole.teacher), teacher.backbone.state_dict()
    adapters = load_file(folder / FILE)
    beneath = {name.partition(".lora_")[0].partition(".")[2] for name in adapters}
    prefix = next(iter(adapters)).partition(".")[0]
    for name, weight in student.backbone.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in beneath and name.endswith(".weight"):
            first, second = (adapters[f"{prefix}.{layer}.lora_{each}.weight"] for each in "AB")
            torch.testing.assert_close(weight, exact[name] + second @ first, rtol=0, atol=1e-6)
        else:
            assert torch.equal(weight, exact[name])
    noise = BUILDERS[family].noise()
    made = [sample_student(each, noise, torch.tensor([0, 1])) for each in (student, teacher)]
    assert error(*made) > 1e-3, "it has learnt"


@pytest.mark.parametrize(
    ("family", "format", "recompute"),
    [("sd1", "int8", True), ("sd1", "nf4", False), ("qwen", "int8", False), ("qwen", "nf4", True)],
)
def test_a_step_teaches_adapters_alone_and_memory_is_what_is_foreseen(
    config, family, format, recompute
):
    """In bf16, where the base's other weights take half."""
    asked = config(family, quantize=format, recompute=recompute, precision="bf16")
    counted = footprint(asked, load_teacher(asked.teacher))
    made = build.prepare(asked)
    teacher, networks = made.grid.teacher, dict(made.state.networks)
    assert any(isinstance(each, QuantizedLinear) for each in teacher.modules())
    computing = [each.network for each in (made.step.student, made.step.critic)]
    there = size(teacher, *networks.values(), *computing)
    assert counted.weights == pytest.approx(there, rel=0.01)
    base = {name: value.clone() for name, value in teacher.state_dict().items()}
    before = adapters_of(networks)
    for step in range(2):
        made.step(step, made.microbatches(step))
    assert all(torch.equal(value, base[k]) for k, value in teacher.state_dict().items())
    assert changed(before, adapters_of(networks)) > 0.9, "but for those that no image depends on"
    stored = made.state.tensors()
    weights = {name for name in stored if name.startswith(("student.", "critic.", "ema.module."))}
    assert weights and all(".lora_" in name for name in weights)


@pytest.mark.parametrize("format", [None, "int8", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_networks_have_one_base(config, family, format):
    made = build.prepare(config(family, quantize=format, precision="bf16"))
    base = made.grid.teacher
    tensors = {v.data_ptr() for v in (*base.parameters(), *base.buffers())}
    for network in made.state.networks.values():
        own = {v.data_ptr() for k, v in network.named_parameters() if ".lora_" in k}
        found = {v.data_ptr() for v in (*network.parameters(), *network.buffers())}
        assert tensors <= found and not own & tensors
        counts = {v.data_ptr() for v in network.buffers() if not v.dim()}  # the average's
        assert found - own - counts <= tensors


def adapters_of(networks: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """A copy of those of student and critic."""
    return {
        f"{name} {key}": value.detach().clone()
        for name in ("student", "critic")
        for key, value in learnt(networks[name]).items()
    }
