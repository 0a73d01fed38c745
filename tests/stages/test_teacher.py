"""Training a small teacher, once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config
from pipeline.data.images import load_images
from pipeline.diffusion.losses import denoising_loss
from pipeline.diffusion.noise import diffuse
from pipeline.models.families.edm import new_unet
from pipeline.models.families.unet2d import UNet2D
from pipeline.models.loading import load_denoiser
from pipeline.models.students import load_student
from pipeline.stages import teacher
from pipeline.stages.teacher import make_teacher
from pipeline.utils.errors import UserError
from tests.fixtures import edm_file
from tests.fixtures.denoise import denoise

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

SHAPE = (1, 8, 8)


def settings(run: Path, seed: int = 0, steps: int = 30, ema: float = 0.9, **own: Any) -> Config:
    """A short run on the digits."""
    training = {"steps": steps, "batch_size": 64, "lr": 0.05, "ema": ema}
    return Config.model_validate(
        {
            "seed": seed,
            "run": str(run),
            "network": {"channels": [8, 16], "attention": [False, False], "norm_groups": 4},
            "teacher": {"training": training, **own},
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = settings(tmp_path_factory.mktemp("run"))
    make_teacher(config)
    return config


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(teacher, "train", train)


def state(folder: str) -> dict[Path, tuple[int, bytes]]:
    files = (file for file in Path(folder).rglob("*") if file.is_file())
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@torch.no_grad()
def loss_of(network: UNet2D) -> float:
    """On digits that were kept out of the training, at EDM's distribution of noise."""
    data, rng = load_images("digits", 8, None), torch.Generator().manual_seed(1)
    images, labels = data.test_images[:256], data.test_labels[:256]
    sigma = (-1.2 + 1.2 * torch.randn(256, generator=rng)).exp()
    x_t = diffuse(images, torch.randn(images.shape, generator=rng), sigma, network.schedule)
    weight = network.error_weight(sigma)
    return float(denoising_loss(denoise(network.eval(), x_t, sigma, labels), images, weight))


def test_thirty_steps_take_a_quarter_off_the_loss(trained: Config) -> None:
    before = loss_of(new_unet(trained.network, SHAPE, 10, trained.seed))
    after = loss_of(load_denoiser(trained.teacher.output, ""))
    assert after < 0.75 * before


def test_the_same_config_trains_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        config = settings(tmp_path / name, seed, steps=2)
        make_teacher(config)
        weights.append((Path(config.teacher.output) / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_what_is_returned_is_the_average() -> None:
    """Without a memory it is the last weights; with one it is not, on the same way."""
    data, weights = load_images("digits", 8, None), []
    for ema in (0.0, 0.9):
        config = settings(Path("unused"), steps=3, ema=ema)
        network = new_unet(config.network, SHAPE, 10, 0)
        average = teacher.train(network, data.images, data.labels, config.teacher.training, 0)
        weights += [network.unet.conv_in.weight, average.unet.conv_in.weight]
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.usefixtures("no_training")
def test_a_trained_teacher_is_left_as_it_is(
    trained: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(trained.teacher.output)
    make_teacher(trained)
    assert state(trained.teacher.output) == before
    assert f"{trained.teacher.output} is trained already" in capsys.readouterr().out


@pytest.mark.usefixtures("no_training")
def test_it_is_no_student(trained: Config, tmp_path: Path) -> None:
    """Wherever it lies: its provenance says who made it."""
    copy = shutil.copytree(trained.teacher.output, tmp_path / "copy")
    with pytest.raises(UserError, match=rf"evaluate\.student: {copy} is a teacher"):
        load_student(copy)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 31}], ids=str)
def test_the_folder_of_another_teacher_is_refused(trained: Config, change: Any) -> None:
    before = state(trained.teacher.output)
    with pytest.raises(UserError, match=r"teacher\.output: .*made otherwise.*another folder"):
        make_teacher(settings(Path(trained.run), **change))
    assert state(trained.teacher.output) == before


@pytest.mark.usefixtures("no_training")
def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="in use by something else"):
        make_teacher(settings(tmp_path, output=str(tmp_path)))


@pytest.mark.usefixtures("no_training")
def test_an_output_that_cannot_be_written_stops_it_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "teacher"):
        with pytest.raises(UserError, match=r"teacher\.output: cannot write to"):
            make_teacher(settings(tmp_path, output=str(place)))


@pytest.mark.usefixtures("no_training")
def test_without_images_nothing_is_trained(tmp_path: Path) -> None:
    config = Config.model_validate({"run": str(tmp_path), "data": {"name": None}})
    with pytest.raises(UserError, match="data.name: null leaves the teacher without images"):
        make_teacher(config)
    assert list(tmp_path.iterdir()) == []


def test_a_formula_needs_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_teacher(settings(tmp_path / "run", kind="gaussian"))
    assert not (tmp_path / "run").exists()
    assert "nothing to train" in capsys.readouterr().out


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An EDM file of the helper's command."""
    words = ["edm_file.py", "--out", str(tmp_path / "edm.pkl"), "--network", "ddpmpp"]
    monkeypatch.setattr("sys.argv", words)
    edm_file.main()
    return tmp_path / "edm.pkl"


@pytest.mark.usefixtures("no_training")
def test_a_file_is_imported_once(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "teacher")
    words = ["--data.name", "null", "--import", str(made), "--teacher.output", output]
    assert main(Job(make_teacher), words) == 0
    assert load_denoiser(output, "").classes == 10
    before = state(output)
    assert main(Job(make_teacher), words) == 0
    assert state(output) == before and len(before) == 5
    assert f"{output} is imported already" in capsys.readouterr().out
    made.write_bytes(edm_file.dump({"ema": edm_file.network("ddpmpp", seed=1)}))
    assert main(Job(make_teacher), words) == 2
    assert "holds a model made otherwise" in capsys.readouterr().err
    assert state(output) == before


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.pkl", "cannot read .*missing.pkl: No such file.*name an EDM file"),
        (".", "Is a directory"),
        ("s3://bucket/edm.pkl", "s3://bucket/edm.pkl is no local file; download it first"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, file: str, message: str) -> None:
    where = file if "://" in file else str(tmp_path / file)
    with pytest.raises(UserError, match=f"teacher.file: .*{message}"):
        make_teacher(settings(tmp_path, file=where))
    assert not (tmp_path / "teacher").exists()
