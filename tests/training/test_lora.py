"""A run whose student and critic are adapters: small, resumable, and over one frozen base."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.models.export.card import TEACHER
from pipeline.models.loading import load_teacher
from pipeline.models.lora import FILE
from pipeline.models.network import Network
from pipeline.models.sampling import sample_student
from pipeline.models.students import load_student
from pipeline.runs.checkpoint import read_part
from pipeline.runs.run import Run
from pipeline.training import build, loop
from pipeline.training.hooks import EMA
from pipeline.training.memory import footprint
from pipeline.utils.errors import UserError
from tests.fixtures.tiny_models import save_tiny

LORA = {"rank": 4, "alpha": 6.0}
ADAPTER = re.compile(r"unet\..*\.lora_[AB]\.default\.weight$")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes runs of four steps over one tiny_run Stable Diffusion."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    model = save_tiny(folder / "model")

    def new(name: str, lora: dict | None = LORA, **distill) -> Config:
        networks = {
            each: {"lr": 0.01, "lora": lora or {}} | distill.pop(each, {})
            for each in ("student", "critic")
        }
        tree = {
            "run": str(folder / name),
            "data": {"name": None},
            "teacher": {"output": str(model), "prompts": str(folder / "prompts.txt")},
            "pairs": {"solver": "euler", "steps": 2},
            "distill": {
                **{"steps": 4, "regression_steps": 0, "burn_in_steps": 0, "batch_size": 4},
                **{"regression": {"weight": 0.0, "batch_size": 4}, "warmup": 0},
                **{"checkpoint_every": 2, "sample_every": 4, "log_every": 2},
                **networks,
                **distill,
            },
        }
        return fetch_inputs(Config.model_validate(tree), "teacher")

    old = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    yield new
    if old is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = old


@pytest.fixture(scope="module")
def finished(make) -> Config:
    config = make("finished")
    Run(config).claim()
    assert loop.train(config) == 4
    Run(config).finish()
    return config


def part(config: Config, name: str) -> dict[str, Tensor]:
    with Run(config).checkpoints.newest() as found:
        return read_part(found[1], name)


def tensors(network) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_teaches_adapters_alone_over_one_base(make, recompute):
    config = make("steps", recompute=recompute)
    counted = footprint(config, load_teacher(config.teacher))
    made = build.prepare(config)
    teacher, networks = made.grid.teacher, dict(made.state.networks)
    networks["ema"] = networks["ema"].module
    base = {value.data_ptr() for value in tensors(teacher).values()}
    for network in networks.values():
        found = tensors(network)
        assert {v.data_ptr() for k, v in found.items() if not ADAPTER.search(k)} == base
        assert not base & {v.data_ptr() for k, v in found.items() if ADAPTER.search(k)}
    before = {k: v.clone() for k, v in made.state.tensors().items()}
    taught = {k: v.clone() for k, v in teacher.state_dict().items()}
    ema = EMA(made)
    for step in range(3):
        made.step(step, made.microbatches(step), ema.after_student_update)
    assert all(torch.equal(value, taught[k]) for k, value in teacher.state_dict().items())
    after = made.state.tensors()
    weights = {k for k in after if k.startswith(("student.", "critic.", "ema.module."))}
    assert all(not torch.equal(after[name], before[name]) for name in weights)
    assert all(ADAPTER.search(k) for k in weights)
    stored = {k: v.numel() * v.element_size() for k, v in after.items()}
    own = sum(v.numel() * v.element_size() for v in tensors(teacher).values())
    assert counted.weights - own == sum(stored[name] for name in weights)
    assert counted.moments == pytest.approx(
        sum(v for k, v in stored.items() if k.endswith((".exp_avg", ".exp_avg_sq"))), abs=8
    )
    assert sum(stored.values()) < 0.6 * own


def test_a_base_goes_to_the_device_in_the_type_that_it_is_held_in(make, monkeypatch):
    config, moved, to = make("moved", precision="bf16"), list[set[torch.dtype]](), Network.to

    def spy(self, *device):
        weights = {value.dtype for k, value in self.named_parameters() if not ADAPTER.search(k)}
        moved.append(weights)
        return to(self, *device)

    monkeypatch.setattr(Network, "to", spy)
    build.prepare(config)
    assert moved and all(weights == {torch.bfloat16} for weights in moved)


def test_a_broken_run_ends_like_an_unbroken_one_bit_for_bit(make, finished):
    broken, conditioned = make("broken"), iter([True])
    assert loop.train(broken, lambda: next(conditioned)) == 2
    assert loop.train(broken) == 4
    Run(broken).finish()
    states = [Path(each.distill.output) / "state.json" for each in (broken, finished)]
    ours, theirs = (json.loads(file.read_text()) for file in states)
    assert ours == theirs


def test_the_student_opens_whole_and_the_card_makes_it_of_the_teacher(
    finished, tmp_path, monkeypatch
):
    student = Path(finished.distill.output) / "student"
    assert load_file(student / FILE).keys() == {
        f"{name.replace('.default', '')}" for name in part(finished, "student")
    }
    codes = re.findall(r"```python\n(.*?)```", (student / "README.md").read_text(), re.DOTALL)
    assert len(codes) == 2 and "load_lora_weights" in codes[1]
    pictures = []
    monkeypatch.chdir(student.parent)
    monkeypatch.setattr("PIL.Image.Image.save", lambda self, name: pictures.append(self))
    for code in codes:
        torch.manual_seed(0)
        exec(code.replace(TEACHER, finished.teacher.output), {})
    first, second = (
        torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8).int() for each in pictures
    )
    assert (first - second).abs().max() <= 1, "rounding to 8 bits"
    noise = torch.randn(2, 4, 8, 8)
    by_student, by_teacher = (
        sample_student(each, noise, torch.tensor([0, 1]))
        for each in (load_student(student, finished.teacher), load_teacher(finished.teacher))
    )
    assert (by_student - by_teacher).abs().max() > 0.01, "it has learnt"


@pytest.mark.parametrize("origin", ["", "/checkpoints", "/student"])
def test_adapters_go_on_in_a_new_run(make, finished, origin):
    where = finished.distill.output + origin
    if origin == "/checkpoints":
        where += f"/{Run(finished).checkpoints.commits()[0].name}"
    networks = build.prepare(make("second", start_from=where)).state.networks
    average, critic = part(finished, "ema"), part(finished, "critic")
    found = {name: dict(networks[name].named_parameters()) for name in ("student", "critic")}
    for name in critic:
        torch.testing.assert_close(found["student"][name].detach(), average[f"module.{name}"])
        assert torch.equal(found["critic"][name], critic[name]) == (origin != "/student")


def test_other_adapters_do_not_go_on_and_none_begin_from_the_merged_student(make, finished):
    where = finished.distill.output
    for lora, asks in ((LORA | {"alpha": 3.0}, "'alpha': 3.0"), (None, "no adapters")):
        with pytest.raises(UserError, match=f"start_from: the student of .* asks for .*{asks}"):
            build.prepare(make("third", lora, start_from=where))
    config = make("third", None, start_from=f"{where}/student")
    networks = build.prepare(config).state.networks
    student = load_student(f"{where}/student", config.teacher).state_dict()
    assert all(torch.equal(v, student[k]) for k, v in networks["student"].state_dict().items())
    assert all(weight.requires_grad for weight in networks["student"].parameters())


def test_a_gaussian_has_nothing_to_adapt():
    with pytest.raises(ValueError, match=r"distill\.critic\.lora\.rank: 4 needs teacher\.kind"):
        Config.model_validate(
            {"teacher": {"kind": "gaussian"}, "distill": {"critic": {"lora": LORA}}}
        )
