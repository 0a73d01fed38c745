"""Laws of encoding real images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor

from pipeline.config import Config
from pipeline.data import real, shards
from pipeline.data.crop import read_image
from pipeline.data.local import LocalStore
from pipeline.data.plans import RealPlan
from pipeline.data.reader import RealReader
from pipeline.models.vae import VAE
from pipeline.stages import encode
from pipeline.stages.encode import real_plan
from pipeline.stages.verify import inspect_real, verify_real
from pipeline.utils.errors import UserError
from tests.fixtures.image_sets import LAYOUTS, content, items, picture, save_files
from tests.fixtures.real_sets import by_id, configure, labelled, make, maker_of, opened, store_of
from tests.fixtures.tiny_models import save_tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return save_files(tmp_path_factory.mktemp("source") / "images", items(11))


def test_latents_are_those_of_diffusers(teacher, tmp_path):
    square = [(f"{number}.png", content(picture(number, (32, 32))), "words") for number in range(5)]
    config = configure(tmp_path, teacher, save_files(tmp_path / "source", square))
    batch = by_id(make(config).batch(0))
    vae = AutoencoderKL.from_pretrained(teacher, subfolder="vae")
    pixels = VaeImageProcessor(vae_scale_factor=2).preprocess(
        [picture(number, (32, 32)) for number in range(5)], 16, 16
    )
    with torch.no_grad():
        theirs = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    assert batch.images.shape == (5, 4, 8, 8) and batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images, theirs, atol=1e-3, rtol=1e-3)
    assert batch.labels is None and batch.captions == ("words",) * 5


def test_shift_and_scale_come_back_through_decode(teacher):
    latents = encode.load_vae(Config.model_validate({"teacher": {"output": str(teacher)}}).teacher)
    latents.vae.register_to_config(shift_factor=0.3, scaling_factor=2.0)
    latents = VAE(latents.vae)
    images = torch.randn(2, 3, 16, 16)
    mode = latents.vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(latents.encode(images), (mode - 0.3) * 2)
    torch.testing.assert_close(
        latents.decode(latents.encode(images)), latents.vae.decode(mode).sample
    )


def test_every_layout_gives_the_same_set(teacher, tmp_path):
    made = []
    for layout, save in LAYOUTS.items():
        config = configure(tmp_path / layout, teacher, save(tmp_path / f"{layout}-in", items(11)))
        made.append(by_id(make(config).batch(0)))
    for each in made:
        assert each.ids.tolist() == list(range(11))
        assert each.captions == tuple(f"picture {number}" for number in range(11))
        assert torch.equal(each.images, made[0].images)
    assert made[0].images.flatten(1).unique(dim=0).shape[0] == 11


def test_a_set_begun_goes_on_to_the_same_bytes(teacher, source, tmp_path):
    whole, broken = (configure(tmp_path / name, teacher, source) for name in ("one", "two"))
    make(whole)
    opened(broken).make(1)
    assert shards.missing(store_of(broken), opened(broken).plan, 11) == [0, 2]
    make(broken)
    names = [
        "listing.parquet",
        "manifest-11.json",
        "plan.json",
        "real-000000000000-000000000004.parquet",
        "real-000000000004-000000000008.parquet",
        "real-000000000008-000000000011.parquet",
    ]
    assert list(store_of(whole).list()) == list(store_of(broken).list()) == names
    for name in names:
        assert store_of(whole).get(name) == store_of(broken).get(name)
    manifest = shards.read_manifest(store_of(whole), RealPlan)
    assert [shard.rows for shard in manifest.shards] == [4, 4, 3] and manifest.count == 11


def test_a_teacher_on_pixels_gets_pixels_and_labels(tmp_path):
    reader = make(configure(tmp_path, None, labelled(tmp_path / "source")))
    batch = by_id(reader.batch(0))
    assert batch.captions is None and batch.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert batch.images.shape == (9, 3, 8, 8) and reader.manifest.plan.codec == "pixels"
    image = read_image(content(picture(4, (20, 12))), 3, 8, 8).float() / 127.5 - 1
    torch.testing.assert_close(batch.images[4], image, atol=5e-4, rtol=0)


def test_the_reader_gives_every_row_once_an_epoch_with_its_own_words(teacher, source, tmp_path):
    config = configure(tmp_path, teacher, source)
    reader = make(config)
    parts = [RealReader(store_of(config), 3, 5).batch(index) for index in range(11)]
    ids = torch.cat([part.ids for part in parts])
    assert torch.equal(ids[:11].sort().values, torch.arange(11))
    assert torch.equal(torch.bincount(ids), torch.full((11,), 5))
    whole = by_id(reader.batch(0))
    for part in parts:
        assert part.captions == tuple(f"picture {id}" for id in part.ids.tolist())
        assert torch.equal(part.images, whole.images[part.ids])


def test_values_that_are_not_finite_are_not_stored(teacher, source, tmp_path, monkeypatch):
    maker = opened(configure(tmp_path, teacher, source))
    monkeypatch.setattr(maker.latents, "encode", lambda x: x[:, :1, ::2, ::2] / 0)
    with pytest.raises(FloatingPointError, match="the VAE fails at image 4, 004.png"):
        maker.make(1)
    assert not maker._store.list("real-")


def test_a_node_without_the_set_or_with_another_vae_does_not_begin(teacher, source, tmp_path):
    config = configure(tmp_path, teacher, source)
    plan = opened(config).plan
    with pytest.raises(UserError, match="encode.output: node .* does not see .*plan.json"):
        maker_of(config, plan, LocalStore(tmp_path / "lonely")).make(0)
    shared = LocalStore(tmp_path / "shared")
    shards.open_plan(shared, replace(plan, codec="other"))
    with pytest.raises(UserError, match="teacher.output: node .* has another VAE than the job"):
        maker_of(config, replace(plan, codec="other"), shared).make(0)


def test_another_size_gives_other_latents(teacher, source, tmp_path):
    reader = make(configure(tmp_path, teacher, source, size=24))
    assert reader.manifest.plan.size == (24, 24) and reader.manifest.plan.shape == (4, 12, 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": None}, "encode.source: missing; give a folder"),
        ({"size": 15}, "encode.size: 15 is not a multiple of 2"),
        ({"source": "/nowhere"}, "encode.source: no images in /nowhere: nothing is there"),
    ],
)
def test_wrong_settings_are_one_clear_error(teacher, source, tmp_path, values, message):
    config = configure(tmp_path, teacher, **{"source": source} | values)
    with pytest.raises(UserError, match=message):
        real_plan(config, store_of(config))
    assert not store_of(config).list()


def test_a_set_inside_its_source_is_refused(tmp_path):
    configure(tmp_path / "photos-encoded", None, tmp_path / "photos")
    with pytest.raises(ValueError, match="encode.output: .*/photos/real is in encode.source"):
        configure(tmp_path / "photos", None, tmp_path / "photos")


def test_pixels_of_four_channels_are_refused(source, tmp_path):
    gaussian = {"kind": "gaussian", "gaussian": {"shape": [4, 8, 8]}}
    tree = configure(tmp_path, None, source).model_dump(mode="json") | {"teacher": gaussian}
    with pytest.raises(UserError, match="teacher.output: images of 4 channels, and no VAE"):
        real_plan(Config.model_validate(tree), LocalStore(tmp_path / "set"))


def test_another_plan_in_the_same_folder_is_refused(teacher, source, tmp_path):
    make(configure(tmp_path, teacher, source))
    with pytest.raises(UserError, match="encode.output: .*plan.json.* shard_size 4, not 5; choose"):
        opened(configure(tmp_path, teacher, source, shard_size=5))


def test_the_fingerprint_is_of_the_vae_alone(teacher, source, tmp_path):
    again = save_tiny(tmp_path / "again")
    other = save_tiny(tmp_path / "other", seed=1)
    weights = "unet/diffusion_pytorch_model.safetensors"
    (again / weights).write_bytes((other / weights).read_bytes())
    plans = [opened(configure(tmp_path / t.name, t, source)).plan for t in (teacher, again, other)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_inspect_prints_and_draws_and_verify_describes(teacher, source, tmp_path, capsys):
    config = configure(tmp_path, teacher, source)
    images = make(config).batch(0).images.double()
    inspect_real(config)
    verify_real(config)
    text = capsys.readouterr().out
    assert "11 in 3 shards" in text and "4x8x8" in text and "16x16 pixels" in text
    assert text.count(".parquet") == 3 and " picture 3\n" in text
    assert (tmp_path / "real.png").is_file()
    expected = f"mean {images[:, 2].mean():.4f}, deviation {images[:, 2].std(correction=0):.4f}"
    assert f"channel 2: {expected}" in text
    assert "11 images are sound, 0 of their images a second time" in text


def rewrite(config: Config, **changes: object) -> None:
    """Put a changed first shard in the place of the true one."""
    store = store_of(config)
    name = next(iter(store.list("real-")))
    with store.open(name) as file:
        content = real.decode_all(file, (3, 8, 8), "it")
    kept = {k: v for k, v in content.metadata.items() if k not in ("shape", "dtype", "sha256")}
    data = real.encode(replace(content.batch, **changes), kept)
    Path(store.uri(name)).write_bytes(data)
    path = Path(store.uri("manifest-9.json"))
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["bytes"] = len(data)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ids": torch.arange(4) + 1}, "other ids"),
        ({"labels": torch.tensor([0, 0, 0, 2])}, "other labels or captions than the listing"),
        ({"labels": None}, "other columns"),
        ({"images": torch.full((4, 3, 8, 8), torch.nan)}, "not finite"),
    ],
)
def test_wrong_content_is_found(tmp_path, changes, fault):
    config = configure(tmp_path, None, labelled(tmp_path / "source"))
    make(config)
    verify_real(config)
    rewrite(config, **changes)
    with pytest.raises(UserError, match=f"1 of 3 shards .*{fault}.*run jobs/encode.py again"):
        verify_real(config)


def test_a_manifest_with_other_rows_than_the_shards_is_found(tmp_path):
    config = configure(tmp_path, None, labelled(tmp_path / "source"))
    make(config)
    path = Path(store_of(config).uri("manifest-9.json"))
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["rows"], manifest["count"] = 3, 8
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="manifest-9.json gives real-.* 3 rows, not 4; delete it"):
        verify_real(config)
    path.unlink()
    make(config)
    verify_real(config)


def test_a_set_that_is_not_closed_cannot_be_read(tmp_path):
    config = configure(tmp_path, None, labelled(tmp_path / "source"))
    maker = opened(config)
    maker.make(0)
    with pytest.raises(UserError, match="no complete real set in .*run jobs/encode.py first"):
        RealReader(store_of(config), 0, 4)
    with pytest.raises(UserError, match="000000000008.parquet is missing: run jobs/encode.py"):
        real.close(store_of(config), maker.plan)
