"""Laws of a reference: real images of the user's, whatever the teacher works on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pipeline.config import Config
from pipeline.data.fetch import fetch_inputs
from pipeline.diffusion.condition import Condition
from pipeline.diffusion.noise import EDM, expand
from pipeline.evaluation import reference, speed
from pipeline.evaluation.metrics import bootstrap
from pipeline.evaluation.reference import Reference, open_reference
from pipeline.models.condition import ClassLabels
from pipeline.models.denoiser import Denoiser
from pipeline.models.export.save import save_denoiser
from pipeline.models.families.gaussian import GaussianMixture, gaussian_teacher
from pipeline.models.loading import load_teacher
from pipeline.models.perceptual import features
from pipeline.models.perceptual.features import FeatureNet, resized
from pipeline.models.sampling import sample_teacher
from pipeline.models.students import new_student
from pipeline.stages import evaluate
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import LAYOUTS, Item, content, items, save_files
from tests.fixtures.tiny_models import save_tiny

PROMPTS = [f"picture {number}" for number in range(8)]


class Doubled:
    """Instead of a VAE: of four channels three, twice as large."""

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return 3, *(2 * side for side in shape[1:])


class NamedClasses(ClassLabels):
    """Classes that prompts name."""

    prompts = PROMPTS


class Painted(GaussianMixture):
    """A text-to-image teacher on latents whose images are known: one Gaussian for each prompt."""

    def __init__(self) -> None:
        plain = gaussian_teacher((4, 8, 8), len(PROMPTS))
        super().__init__(plain.means, plain.variances, None, plain.shape)
        self.latents = Doubled()  # type: ignore[assignment]
        self.conditioner = NamedClasses(len(PROMPTS))

    def decode(self, x0: Tensor) -> Tensor:
        assert x0.shape[1] == 4, "images are no latents"
        return functional.interpolate(x0[:, :3], scale_factor=2)


class Perfect(Denoiser):
    """Its one step is all the steps of the teacher."""

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.teacher, self.schedule = teacher, EDM()
        self.shape, self.conditioner = teacher.shape, teacher.conditioner

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        noise, labels = x_t / expand(t, x_t), condition.get("labels")
        return sample_teacher(self.teacher, noise, labels, "heun", 18, 1.0)


class Squares:
    name, library, checksum, resize = "mean colours of 16 squares", "none", "none", "none"

    def __call__(self, images: Tensor) -> Tensor:
        assert images.shape[1] == 3, "latents are no images"
        return functional.adaptive_avg_pool2d(images.clamp(-1, 1), 4).flatten(1)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    monkeypatch.setattr(speed, "_LONGEST", 0.02)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Painted:
    """A teacher on latents, and features of images."""
    teacher = Painted()
    monkeypatch.setattr(evaluate, "load_teacher", lambda config: teacher)
    monkeypatch.setattr(evaluate, "teacher_fingerprint", lambda config: "of the teacher")
    monkeypatch.setattr(evaluate, "load_features", lambda config: Squares())
    return teacher


def sampled(teacher: Denoiser, labels: Tensor) -> list[bytes]:
    """Files of images of the teacher, from noise of their own."""
    noise = torch.randn(len(labels), *teacher.shape, generator=torch.Generator().manual_seed(5))
    images = teacher.decode(sample_teacher(teacher, noise, labels, "heun", 18, 1.0))
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [content(Image.fromarray(each.numpy())) for each in pixels]


def of_prompts(teacher: Denoiser, numbers: Tensor) -> list[Item]:
    return [
        (f"{row:04}.png", data, PROMPTS[number])
        for row, (data, number) in enumerate(zip(sampled(teacher, numbers), numbers, strict=True))
    ]


def settings(run: Path, source: Path, count: int = 200, **branches: Any) -> Config:
    own = {"count": count, "student": str(run), "reference": str(source)}
    tree = {"run": str(run), "data": {"name": None}, "evaluate": own}
    return Config.model_validate(tree | branches)


def opened(config: Config, teacher: Denoiser) -> Reference | None:
    return open_reference(config.evaluate, config.s3, teacher)


def judge(config: Config, student: Denoiser, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(evaluate, "load_student", lambda *_: student)
    evaluate.evaluate(config)
    return json.loads((Path(config.run) / "evaluation.json").read_text())


def test_a_student_like_the_real_images_beats_one_that_is_not(
    painted: Painted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captions are those of three prompts of eight; the other student has no variety."""
    source = save_files(tmp_path / "real", of_prompts(painted, torch.arange(240) % 3))
    config = settings(tmp_path / "run", source)
    good = judge(config, Perfect(painted), monkeypatch)
    poor = judge(config, painted, monkeypatch)
    assert good["fd_real"] == pytest.approx(good["teacher_fd_real"], rel=1e-3)
    assert 0 < good["fd_real"] < good["real_floor"], "that of half as many images"
    assert poor["fd_real"] > 5 * good["fd_real"] and poor["recall"] < 0.5 * good["recall"]
    assert good["recall"] == good["teacher_recall"] > 0.6 and good["precision"] > 0.6
    assert poor["verdict"][0].startswith("Collapsed: the student leaves out most of the real")
    assert good["verdict"][0].startswith("No fault found")
    assert (good["n_real"], good["n_real_floor"], good["classifier_accuracy"]) == (200, 100, None)
    metrics = good["metrics"]
    shapes = [(each["reference"]["name"], each["n"]) for each in metrics["comparisons"]]
    assert shapes == [("teacher", 200), ("real", 200), ("real, half", 100)]
    assert metrics["comparisons"][1]["reference"]["against"] == "images of the same captions"
    assert metrics["reference"]["images"] == 240 and metrics["reference"]["n"] == 200
    assert metrics["reference"]["preparation"].endswith("Lanczos to 16x16")
    assert metrics["neighbours"] is None, "no image is known to be kept out of training"
    assert Image.open(tmp_path / "run" / "neighbours.png").width > 400


def test_without_captions_of_the_teachers_all_prompts_are_taken_in_turn(
    painted: Painted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = settings(
        tmp_path / "own", save_files(tmp_path / "a", of_prompts(painted, torch.arange(100) % 3))
    )
    found = [judge(own, Perfect(painted), monkeypatch)]
    for name, said in (("silent", "100 of 100 images have no caption"), ("other", "'a boat'")):
        some = of_prompts(painted, torch.arange(100) % 3)
        source = save_files(tmp_path / name, [(*each[:2], "a boat") for each in some])
        if name == "silent":
            for path in source.glob("*.txt"):
                path.unlink()
        found.append(
            judge(settings(tmp_path / f"{name}-run", source), Perfect(painted), monkeypatch)
        )
        printed = capsys.readouterr().out
        assert f"their captions are not used: {'evaluate' if name == 'silent' else ''}" in printed
        assert said in printed
    with_own, *others = found
    for each in others:
        (real,) = {
            record["reference"]["against"]
            for record in each["metrics"]["comparisons"]
            if record["reference"]["name"] != "teacher"
        }
        assert real == "images of all prompts in turn"
        assert each["fd_real"] > 2 * with_own["fd_real"], "these are of other prompts"


def save_classes(folder: Path, teacher: Denoiser, count: int) -> Path:
    """A folder for each class, named by its number."""
    labels = torch.arange(count) % 3
    for row, (data, label) in enumerate(zip(sampled(teacher, labels), labels, strict=True)):
        path = folder / str(int(label)) / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


GAUSSIAN = {"kind": "gaussian", "gaussian": {"shape": [3, 8, 8], "classes": 3}}


def test_small_pixels_are_compared_whole_with_the_labels_of_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = gaussian_teacher((3, 8, 8), 3)
    source = save_classes(tmp_path / "real", teacher, 240)
    found = []
    for batch_size in (37, 500):
        own = {"count": 240, "student": "s", "reference": str(source), "batch_size": batch_size}
        config = settings(tmp_path / "run", source, teacher=GAUSSIAN, evaluate=own)
        found.append(judge(config, Perfect(teacher), monkeypatch))
    assert found[0]["fd_real"] == pytest.approx(found[1]["fd_real"], rel=1e-5)
    assert found[0]["metrics"]["features"]["name"] == "pixels"
    (_, whole, half) = found[0]["metrics"]["comparisons"]
    assert whole["reference"]["against"] == "images of the same labels"
    assert half["figures"]["fid"]["floor"]["value"] < 2 * half["figures"]["fid"]["student"]["value"]
    assert judge(config, teacher, monkeypatch)["fd_real"] > 2 * found[0]["fd_real"]


def test_every_layout_is_the_same_reference(tmp_path: Path, painted: Painted) -> None:
    found = []
    for layout, save in LAYOUTS.items():
        source = save(tmp_path / layout, items(30))
        images = opened(settings(tmp_path / "run", source), painted)
        assert images is not None and images.pixels == (3, 16, 16)
        found.append((images.fingerprint, images.images("real", torch.arange(30))))
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][1], found[2][1])
    assert found[0][1].flatten(1).unique(dim=0).shape[0] == 30


def test_the_images_whose_features_are_kept_are_a_random_part(
    tmp_path: Path, painted: Painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "KEPT", 20)
    source = save_files(tmp_path / "real", items(60))
    few, more = (opened(settings(tmp_path / "run", source, count), painted) for count in (20, 50))
    assert few is not None and more is not None
    names = [sample.name for sample in more.samples]
    assert len(set(names)) == 50 and names[:20] == [sample.name for sample in few.samples]
    assert names[:20] == sorted(names[:20]) and names[20:] == sorted(names[20:])
    assert names[10] > "020" and few.fingerprint != more.fingerprint


def test_damaged_images_are_left_out_and_counted(
    tmp_path: Path, painted: Painted, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_files(tmp_path / "real", items(30))
    (source / "003.jpg").write_bytes(b"no image")
    whole = (source / "004.png").read_bytes()
    (source / "004.png").write_bytes(whole[:-40])
    config = settings(tmp_path / "run", source)
    found = opened(config, painted)
    assert found is not None and (found.total, found.damaged) == (30, 2)
    assert {sample.name for sample in found.samples}.isdisjoint({"003.jpg", "004.png"})
    assert "2 of 30 images cannot be read and are left out, the first 003.jpg: no JPEG" in (
        capsys.readouterr().out
    )
    (source / "005.webp").write_bytes(b"no image")
    with pytest.raises(UserError, match="005.webp could be read before, and now cannot"):
        found.images("real", torch.arange(28))
    for path in sorted(source.glob("*.*"))[:36]:
        path.write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"evaluate\.reference: 18 of 30 images cannot be read, the"
    ):
        opened(config, painted)


def test_wrong_references_are_one_clear_error_and_leave_nothing(
    tmp_path: Path, painted: Painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    few = save_files(tmp_path / "few", items(19))
    for source, message in (
        (tmp_path / "nowhere", "no images in .*nowhere: nothing is there; give a folder"),
        (tmp_path / "empty", "no images in .*empty: nothing is there; give a folder"),
        (tmp_path / "a.tar", "there is no .*a.tar"),
        (few, "19 images of .*few to compare with, and 20 are needed"),
    ):
        with pytest.raises(UserError, match=rf"evaluate\.reference: {message}"):
            judge(settings(tmp_path / "run", source), Perfect(painted), monkeypatch)
    monkeypatch.setattr(evaluate, "load_features", lambda config: None)
    with pytest.raises(
        UserError, match=r"evaluate\.features: .*the teacher's latents are no.*dino"
    ):
        judge(settings(tmp_path / "run", few), Perfect(painted), monkeypatch)
    strange = {"kind": "gaussian", "gaussian": {"shape": [4, 8, 8]}}
    teacher = gaussian_teacher((4, 8, 8), 10)
    with pytest.raises(UserError, match=r"evaluate\.reference: the teacher makes images of 4 chan"):
        opened(settings(tmp_path / "run", few, teacher=strange), teacher)
    assert not list((tmp_path / "run").glob("*"))


def test_settings_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluate\.reference: .*data\.name digits.*to null"):
        settings(tmp_path / "run", tmp_path / "real", data={"name": "digits"})
    with pytest.raises(ValueError, match=r"evaluate\.output: .*/real/run is in evaluate\.referen"):
        settings(tmp_path / "real" / "run", tmp_path / "real")


def test_stable_diffusion_against_photographs_in_public_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks, prompts and features as they are loaded for real, only small.

    So that it is quick, EfficientNet sees 64 pixels and the first 128 of its features are taken.
    """
    read = FeatureNet.__call__
    monkeypatch.setattr(features, "resized", lambda side, *colours: resized(64, *colours))
    monkeypatch.setattr(FeatureNet, "__call__", lambda self, images: read(self, images)[:, :128])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.txt").write_text("\n".join(f"picture {number}" for number in range(24)))
    teacher = {"output": str(save_tiny(tmp_path / "sd")), "prompts": str(tmp_path / "prompts.txt")}
    config = settings(
        tmp_path / "run",
        save_files(tmp_path / "real", items(24)),
        teacher=teacher,
        pairs={"solver": "plms", "steps": 2},
        evaluate={
            "count": 24,
            "features": "efficientnet-lite0",
            "reference": str(tmp_path / "real"),
        },
    )
    student = new_student(load_teacher(fetch_inputs(config, "teacher").teacher), config.network, 0)
    save_denoiser(student, config.evaluate.student, {})
    evaluate.evaluate(config)
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (_, whole, half) = figures["metrics"]["comparisons"]
    assert (
        figures["n_real"] == 24
        and figures["fd_real"] == whole["figures"]["fid"]["student"]["value"]
    )
    assert whole["reference"]["against"] == "images of the same captions"
    assert figures["metrics"]["features"]["name"].startswith("EfficientNet-Lite0")
    assert set(half["figures"]) == {"fid", "kid", "precision", "recall", "density", "coverage"}
    assert 0 < half["figures"]["fid"]["floor"]["value"] < half["figures"]["fid"]["teacher"]["value"]
