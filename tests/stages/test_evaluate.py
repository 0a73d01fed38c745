"""An evaluation against values that are known: perfect, collapsed, memorising, broken students."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.config import Config
from pipeline.data.images import load_images
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, expand
from pipeline.evaluation import classifier, speed
from pipeline.evaluation.image_reader import Batch, in_process
from pipeline.evaluation.metrics import bootstrap
from pipeline.models.denoiser import Denoiser
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.edm import new_unet
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.models.sampling import sample_teacher
from pipeline.models.weights import weights_digest
from pipeline.stages import evaluate
from pipeline.utils.errors import UserError

KEYS = {
    *("fd_floor", "fd_teacher", "fd_real", "teacher_fd_real", "real_floor", "n_real_floor"),
    *("accuracy", "teacher_accuracy", "precision", "recall", "teacher_precision"),
    *("teacher_recall", "pixel_fd", "pixel_fd_floor", "latency_ms", "teacher_latency_ms"),
    *("speedup", "nfe_teacher", "n_teacher", "n_real", "classifier_accuracy", "seed"),
    "n_real_compared",
    *("metrics", "verdict"),
}
OF_REAL = {
    *("fd_real", "teacher_fd_real", "real_floor", "n_real_floor", "accuracy", "n_real"),
    *("teacher_accuracy", "precision", "recall", "teacher_precision", "teacher_recall"),
    *("classifier_accuracy", "n_real_compared"),
}


class Perfect(Denoiser):
    """Its one step is all the steps of the teacher."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.teacher, self.schedule = teacher, EDM()
        self.shape, self.conditioner = teacher.shape, teacher.conditioner

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        noise, labels = x_t / expand(t, x_t), condition.get("labels")
        return sample_teacher(self.teacher, noise, labels, "heun", 18, 1.0)


class Broken(Perfect):
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return x_t * math.nan


class Memory(Perfect):
    """Gives a training image of the right class for every noise."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__(teacher)
        self.real = load_images("digits", 8, None)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        chosen = []
        for label, noise in zip(condition["labels"], x_t, strict=True):
            members = (self.real.labels == label).nonzero().flatten()
            chosen.append(members[int(noise.sum().abs() * 1e4) % len(members)])
        return self.real.images[torch.stack(chosen)]


class Colours:
    name, library, checksum, resize = "mean colours", "none", "none", "none"

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    monkeypatch.setattr(speed, "_LONGEST", 0.02)


def settings(folder: Path, count: int, **branches: Any) -> Config:
    tree = {
        "run": str(folder),
        "data": {"name": None},
        "teacher": {"kind": "gaussian"},
        "evaluate": {"count": count, "student": str(folder)},
    }
    return Config.model_validate(tree | branches)


def run(config: Config, student: Denoiser, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(evaluate, "load_student", lambda *_: student)
    evaluate.evaluate(config)
    return json.loads((Path(config.run) / "evaluation.json").read_text())


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Denoiser]:
    """One Gaussian for each class of digits as the teacher, and a hasty classifier."""
    real = load_images("digits", 8, None)
    pixels = real.images.flatten(1)
    groups = [pixels[real.labels == label] for label in range(10)]
    means = torch.stack([group.mean(0) for group in groups])
    variances = torch.stack([group.var(0) for group in groups]) + 1e-3
    teacher = GaussianMixture(means, variances, None, (1, 8, 8))
    monkeypatch.setattr(evaluate, "load_teacher", lambda config: teacher)
    monkeypatch.setattr(evaluate, "teacher_fingerprint", lambda config: "of the teacher")
    monkeypatch.setattr(classifier, "_steps", lambda count: 40)
    kinds = {"data": {"name": "digits"}, "teacher": {"kind": "diffusers"}}
    return settings(tmp_path, 300, **kinds), teacher


def test_a_student_that_is_replaced_meanwhile_gets_no_figures(tmp_path: Path) -> None:
    student = tmp_path / "student"
    evaluated = {"count": 32, "student": str(student)}
    config = settings(
        tmp_path, 32, evaluate=evaluated, network={"channels": [8, 8], "norm_groups": 4}
    )

    def save(seed: int) -> None:
        network = new_unet(config.network, (1, 8, 8), 10, seed)
        save_denoiser(network, str(student), {})

    def replaced(*given: Any) -> Iterator[Batch]:
        yield from in_process(*given)
        shutil.rmtree(student)
        save(1)

    save(0)
    with pytest.raises(UserError, match=r"evaluate\.student: .* was replaced"):
        evaluate.evaluate(config, replaced)
    assert not (tmp_path / "evaluation.json").exists()
    evaluate.evaluate(config)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["student"] == weights_digest(student)


def test_a_perfect_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = run(settings(tmp_path, 400), Perfect(gaussian_teacher((1, 8, 8), 10)), monkeypatch)
    assert set(figures) == KEYS
    assert {key for key, value in figures.items() if value is None} == OF_REAL
    assert figures["fd_teacher"] == pytest.approx(figures["pixel_fd"], abs=1e-9)
    assert figures["fd_teacher"] == pytest.approx(0, abs=1e-6)
    assert (
        figures["fd_floor"] == pytest.approx(figures["pixel_fd_floor"])
        and figures["fd_floor"] > 0.1
    )
    assert (figures["nfe_teacher"], figures["n_teacher"], figures["seed"]) == (35, 400, 0)
    assert figures["speedup"] == pytest.approx(1, rel=0.5)
    assert figures["metrics"]["features"]["name"] == "pixels"
    (comparison,) = figures["metrics"]["comparisons"]
    assert (comparison["n"], comparison["reference"]["name"]) == (400, "teacher")
    assert comparison["figures"]["recall"]["student"]["value"] == 1
    assert figures["metrics"]["neighbours"] is figures["metrics"]["failures"] is None
    costs = figures["metrics"]["speed"]
    assert (costs["student"]["nfe"], costs["teacher"]["nfe"]) == (1, 35)
    assert figures["verdict"][0].startswith("No fault found")


def test_a_student_of_class_means_is_as_far_as_theory_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's one step at sigma 80 is its class mean, all but exactly."""
    teacher = gaussian_teacher((1, 8, 8), 10)
    figures = run(settings(tmp_path, 2000), teacher, monkeypatch)
    at_zero, at_one = (
        sample_teacher(teacher, torch.full((1, 1, 8, 8), z), torch.tensor([0]), "heun", 18, 1.0)
        for z in (0.0, 1.0)
    )
    std = (at_one - at_zero).mean()  # of a class, as 18 steps make it: 6% above the true 0.25
    between = torch.linalg.eigvalsh(teacher.means.double().T.cov(correction=0)).clamp(min=0)
    expected = ((between + std**2).sqrt() - between.sqrt()).square().sum()
    assert figures["fd_teacher"] == pytest.approx(float(expected), rel=0.05)
    assert figures["fd_teacher"] > 20 * figures["fd_floor"]


def test_a_perfect_student_of_real_images_equals_its_teacher(
    digits: tuple[Config, Denoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, teacher = digits
    figures = run(config, Perfect(teacher), monkeypatch)
    assert set(figures) == KEYS and None not in figures.values()
    assert figures["fd_teacher"] == pytest.approx(0, abs=1e-6) and figures["fd_floor"] > 0.01
    for figure, of_teacher in (
        ("fd_real", "teacher_fd_real"),
        ("accuracy", "teacher_accuracy"),
        ("precision", "teacher_precision"),
        ("recall", "teacher_recall"),
    ):
        assert figures[figure] == pytest.approx(figures[of_teacher], abs=1e-6)
    assert (figures["n_teacher"], figures["n_real"], figures["n_real_floor"]) == (300, 1438, 719)
    assert figures["classifier_accuracy"] > 0.8 and figures["accuracy"] > 0.8
    assert 0 < figures["real_floor"] < figures["fd_real"]
    assert figures["verdict"][0].startswith("No fault found")
    check_metrics(figures)
    for name in ("evaluation", "neighbours", "failures"):
        assert Image.open(Path(config.run) / f"{name}.png").width > 400, name


def check_metrics(figures: dict[str, Any]) -> None:
    """Every figure says what it was made of, and stands beside those of its n alone."""
    metrics = figures["metrics"]
    assert metrics["features"]["name"] == "classifier of digits, 64 features"
    assert len(metrics["features"]["checksum"]) == 64 and metrics["features"]["resize"] == "none"
    shapes = [(each["reference"]["name"], each["n"]) for each in metrics["comparisons"]]
    assert shapes == [("teacher", 300), ("real", 1438), ("real, half", 719)]
    for comparison in metrics["comparisons"]:
        assert len(comparison["reference"]["fingerprint"]) == 64
        for name, figure in comparison["figures"].items():
            assert ("torchmetrics" in figure["library"]) == (name == "kid")
            for each in filter(None, (figure[side] for side in ("student", "teacher", "floor"))):
                assert each["low"] <= each["value"] <= each["high"]
    versus, whole, half = (each["figures"] for each in metrics["comparisons"])
    assert versus["fid"]["student"]["value"] == figures["fd_teacher"]
    assert whole["fid"]["teacher"]["value"] == figures["teacher_fd_real"]
    assert whole["fid"]["floor"] is None and 0 < half["fid"]["floor"]["value"]
    assert half["fid"]["floor"]["value"] < half["fid"]["student"]["value"]
    assert set(half) == {"fid", "kid", "precision", "recall", "density", "coverage"}
    wrong = metrics["failures"]
    assert wrong["student"]["value"] == pytest.approx(1 - figures["accuracy"])
    assert wrong["both"] == round(300 * wrong["student"]["value"])
    assert all(case["label"] == case["id"] % 10 != case["predicted"] for case in wrong["surest"])


def test_a_student_that_remembers_is_found_out(
    digits: tuple[Config, Denoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, teacher = digits
    figures = run(config, Memory(teacher), monkeypatch)
    assert figures["verdict"][0].startswith("Memorising: the student's images are 0.00 times")
    assert figures["fd_real"] < figures["teacher_fd_real"] and figures["precision"] == 1
    near = figures["metrics"]["neighbours"]
    assert near["features"]["student"]["closer"]["value"] == 1
    assert near["nearest"][0]["distance"] == pytest.approx(0, abs=1e-4)
    assert near["features"]["teacher"]["ratio"]["value"] > 0.5


def test_a_student_without_variety_is_found_out(
    digits: tuple[Config, Denoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, teacher = digits
    figures = run(config, teacher, monkeypatch)
    assert figures["accuracy"] >= figures["teacher_accuracy"]
    assert figures["recall"] < 0.05 < figures["teacher_recall"]
    assert figures["fd_real"] > 1.5 * figures["teacher_fd_real"]
    assert figures["verdict"][0].startswith("Collapsed: the student leaves out most of the real")


def test_images_too_large_for_pixels_need_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"teacher": {"kind": "gaussian", "gaussian": {"shape": [3, 64, 64], "classes": 2}}}
    large = gaussian_teacher((3, 64, 64), 2)
    with pytest.raises(UserError, match=r"evaluate\.features.*\(3, 64, 64\) are too large.*dinov2"):
        run(settings(tmp_path, 20, **kinds), large, monkeypatch)
    monkeypatch.setattr(evaluate, "load_features", lambda config: Colours())
    figures = run(settings(tmp_path, 20, **kinds), large, monkeypatch)
    assert figures["pixel_fd"] is figures["pixel_fd_floor"] is None
    assert figures["metrics"]["features"]["name"] == "mean colours" and figures["fd_teacher"] >= 0


def test_the_same_config_gives_the_same_figures_at_any_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, results = gaussian_teacher((1, 8, 8), 10), []
    for batch_size in (7, 100):
        own = {"count": 100, "student": "s", "batch_size": batch_size}
        figures = run(settings(tmp_path, 100, evaluate=own), teacher, monkeypatch)
        results.append([figures["fd_teacher"], figures["fd_floor"]])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_picture_has_two_columns_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings(tmp_path, 100), gaussian_teacher((1, 8, 8), 10), monkeypatch)
    page = Image.open(tmp_path / "evaluation.png")
    assert 20 * 60 < page.width < 20 * 60 + 300 and 3 * 60 < page.height < 3 * 60 + 80
    printed = capsys.readouterr().out
    assert "Fréchet to teacher" in printed and "precision" not in printed
    assert f"figures  {tmp_path / 'evaluation.json'}" in printed


def test_an_output_that_cannot_be_written_stops_it_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    own = {"output": str(tmp_path / "file" / "x"), "student": "missing"}
    with pytest.raises(UserError, match=r"evaluate\.output: cannot write to .*Not a directory"):
        evaluate.evaluate(settings(tmp_path, 100, evaluate=own))


def test_a_missing_student_is_named(tmp_path: Path) -> None:
    own = {"student": str(tmp_path / "nowhere")}
    with pytest.raises(UserError, match=r"nowhere.*jobs/distill.py.*evaluate\.student"):
        evaluate.evaluate(settings(tmp_path, 100, evaluate=own))


def test_a_student_of_another_teacher_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"evaluate\.student.*\(1, 4, 4\).*\(1, 8, 8\)"):
        run(settings(tmp_path, 100), gaussian_teacher((1, 4, 4), 10), monkeypatch)


def test_real_images_of_another_size_are_refused(
    digits: tuple[Config, Denoiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, teacher = digits
    larger = config.model_copy(update={"data": config.data.model_copy(update={"size": 16})})
    with pytest.raises(UserError, match=r"data\.name.*\(1, 16, 16\).*\(1, 8, 8\)"):
        run(larger, teacher, monkeypatch)


def test_images_that_are_not_finite_leave_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(gaussian_teacher((1, 8, 8), 10))
    with pytest.raises(UserError, match="student.*not finite"):
        run(settings(tmp_path, 100), broken, monkeypatch)
    assert [each.name for each in tmp_path.iterdir()] == ["readouts"]  # the teacher's
