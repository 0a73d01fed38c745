"""Real images for the discriminator."""

import pytest
import torch

from pipeline.config import Config
from pipeline.data.images import load_images
from pipeline.models.families.edm import new_unet
from pipeline.runs.identity import definition
from pipeline.training.gan_images import new_source
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import items, save_files
from tests.fixtures.in_process import encode_images


def configured(tmp_path, real: str, **more) -> Config:
    no_pairs = {"regression_steps": 0, "regression": {"weight": 0.0}}
    distill = {"gan": {"real": real}, "batch_size": 8, "lanes": 2, **no_pairs}
    return Config.model_validate({"run": str(tmp_path), "distill": distill, **more})


def test_every_image_comes_once_an_epoch_with_its_label(tmp_path):
    config = configured(tmp_path, "data")
    source = new_source(config, new_unet(config.network, (1, 8, 8), 10, 0))
    real = load_images("digits", 8, None)
    known = {
        image.numpy().tobytes(): int(y) for image, y in zip(real.images, real.labels, strict=True)
    }
    batches = [source(index) for index in range(-(-len(real.images) // 4))]
    images = torch.cat([images for images, _ in batches])[: len(real.images)]
    labels = torch.cat([labels for _, labels in batches])[: len(real.images)]
    assert [known[each.numpy().tobytes()] for each in images] == labels.tolist()
    counts = torch.unique(images.flatten(1), dim=0, return_counts=True)[1]
    assert counts.sum() == len(real.images) and len(counts) == len(known)
    assert torch.equal(source(7)[0], batches[7][0]), "any batch at once"
    assert not torch.equal(images, real.images)


def test_images_of_another_kind_are_refused(tmp_path):
    config = configured(tmp_path, "data")
    with pytest.raises(
        UserError, match=r"gan\.real: data are images of \(1, 8, 8\), .*\(1, 4, 4\)"
    ):
        new_source(config, new_unet(config.network, (1, 4, 4), 10, 0))
    with pytest.raises(UserError, match=r"gan\.real: data digits has 10 classes, .* 3"):
        new_source(config, new_unet(config.network, (1, 8, 8), 3, 0))


def test_encoded_images_have_their_classes(tmp_path):
    for number in range(3):
        save_files(tmp_path / "source" / f"{number}", items(4))
    gaussian = {"kind": "gaussian", "gaussian": {"shape": [3, 8, 8], "classes": 3}}
    more = {
        "data": {"name": None},
        "teacher": gaussian,
        "encode": {"source": str(tmp_path / "source")},
    }
    config = configured(tmp_path / "run", "encoded", **more)
    with pytest.raises(UserError, match=r"run jobs/encode\.py"):
        definition(config)
    encode_images(config)
    assert definition(config)["real"]["count"] == 12
    source = new_source(config, new_unet(config.network, (3, 8, 8), 3, 0))
    labels = torch.cat([source(index)[1] for index in range(3)])
    assert labels.bincount().tolist() == [4, 4, 4]
    with pytest.raises(UserError, match=r"encode\.output: .* lacks labels below the teacher's 2"):
        own_sampler = new_source(config, new_unet(config.network, (3, 8, 8), 2, 0))
        for index in range(3):
            own_sampler(index)
