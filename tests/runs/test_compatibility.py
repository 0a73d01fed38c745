"""Sets and runs made before the house's second plan stay valid.

`tests/fixtures/before/run.tar.xz` holds, made by commit 1ebe1cc with its own jobs:

    before/   a small run after 4 of 8 steps: settings, teacher, pairs, checkpoint
    after/    what that commit left when it went on to 8: state.json, the student and its
              provenance.json, and the machine it ran on

The bits of a training step depend on PyTorch's version and the processor, so state.json must be
the same on a machine of that kind; elsewhere the student's weights are compared.

`sets.json` beside it holds settings, FILES for the folder of `sets.tar.xz`, and what that commit's
`teacher_fingerprint`, `pair_plan`, `real_plan` and `run.fingerprint` made of them after
`fetch_inputs`; the archive has the inputs (its models, tests/tiny_models.py filled with a constant
a tensor; its files, of 1970), and what `run.claim`, pairs and encode left, without shards.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import Config, settings_yaml
from pipeline.data.storage import Storage
from pipeline.models.loading import teacher_fingerprint
from pipeline.models.students import load_student
from pipeline.runs import events
from pipeline.runs.checkpoint import read_part
from pipeline.runs.run import Run
from pipeline.stages.encode import real_plan
from pipeline.stages.pairs import pair_plan
from pipeline.stages.verify import verify
from pipeline.training import loop

BEFORE = Path(__file__).parents[1] / "fixtures" / "before"
CASES = json.loads((BEFORE / "sets.json").read_text())


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(BEFORE / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return unpack("run.tar.xz", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return unpack("sets.tar.xz", tmp_path_factory.mktemp("sets")) / "sets"


@pytest.fixture
def config(files, tmp_path) -> Config:
    """The settings of the run, whose files are a copy."""
    run = shutil.copytree(files / "before", tmp_path / "run")
    settings = settings_yaml.read(str(run / "settings.yaml"))
    settings["distill"]["steps"] = 8
    return Config.model_validate(settings | {"run": str(run)})


def test_pairs_are_sound_and_of_the_teacher(config, capsys):
    tree = config.model_dump(mode="json")
    tree["pairs"]["resolve"] = 40
    verify(Config.model_validate(tree))
    assert "40 pairs are sound" in capsys.readouterr().out


def test_a_finished_run_stays_finished(config, files):
    run = Run(config)
    run.claim()
    assert not run.is_finished()
    student = Path(config.distill.output) / "student"
    student.mkdir()
    shutil.copy(files / "after" / "provenance.json", student)
    assert run.is_finished()


def test_a_run_goes_on_to_the_same_state(config, files):
    run = Run(config)
    run.claim()
    assert run.checkpoints.step() == 4
    assert loop.train(config) == 8
    run.finish()
    assert run.is_finished()

    with run.checkpoints.newest() as found:
        weights = read_part(found[1], "student")
        average = read_part(found[1], "ema")
    for name, value in load_student(run.student_uri).state_dict().items():
        assert torch.equal(value, average[f"module.{name}"])
    expected = load_file(files / "after" / "student.safetensors")
    assert weights.keys() == expected.keys()
    # Four steps move a weight by 2e-4 on average.
    errors = torch.cat([(weights[name] - expected[name]).abs().flatten() for name in expected])
    assert errors.mean() < 1e-6
    if machine() == json.loads((files / "after" / "machine.json").read_text()):
        state = Path(config.distill.output) / "state.json"
        assert state.read_text() == (files / "after" / "state.json").read_text()


@pytest.mark.parametrize("name", CASES)
def test_what_tells_teachers_sets_and_runs_apart_is_as_before(sets, name):
    case = CASES[name]
    settings = json.dumps(case["settings"]).replace("FILES", str(sets))
    run = Run(Config.model_validate(json.loads(settings)))
    local = run.local
    assert teacher_fingerprint(local.teacher) == case["teacher"]
    assert pair_plan(local.teacher, local.pairs, local.seed).fingerprint() == case["pairs"]
    if real := case.get("real"):
        store = Storage(local.encode.output, local.s3, "encode.output")
        assert real_plan(local, store).fingerprint() == real
    before = (Path(local.distill.output) / "run.json").read_text()
    assert json.loads(json.dumps(run.definition)) == json.loads(before)
    assert run.fingerprint == case["run"]


def machine() -> dict[str, str]:
    """What the bits of a training step depend on."""
    return {
        "torch": torch.__version__,
        "processor": events.machine(None)["processor"],
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
