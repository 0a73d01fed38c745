"""Looking at a pair set, and finding whatever is wrong with it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config
from pipeline.data import schema, shards
from pipeline.data.local import LocalStore
from pipeline.diffusion.pairs import PairBatch
from pipeline.stages.pairs import PairMaker, pair_plan
from pipeline.stages.verify import inspect, verify
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import make_pairs


def configure(folder: Path, **pairs: object) -> Config:
    return Config.model_validate(
        {
            "run": str(folder),
            "data": {"name": None},
            "teacher": {"kind": "gaussian", "gaussian": {"shape": [3, 4, 4], "classes": 5}},
            "pairs": {"count": 40, "shard_size": 20, "steps": 4} | pairs,
        }
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The settings of a closed set of 40 pairs in 2 shards."""
    config = configure(tmp_path)
    plan, store = (
        pair_plan(config.teacher, config.pairs, config.seed),
        LocalStore(tmp_path / "pairs"),
    )
    shards.open_plan(store, plan)
    maker = PairMaker(config.teacher, plan, store, config.pairs)
    for index in (0, 1):
        maker.make(index)
    shards.close(store, plan, 40)
    return config


def rewrite(config: Config, change: Callable[[PairBatch], PairBatch], **metadata: str) -> None:
    """Put a changed second shard in the place of the true one, of the same size."""
    path = Path(config.pairs.output) / "pairs-000000000020-000000000040.parquet"
    with LocalStore(path.parent).open(path.name) as file:
        content = schema.decode_all(file, (3, 4, 4), "it")
    kept = {k: v for k, v in content.metadata.items() if k not in ("shape", "dtype", "sha256")}
    data = schema.encode(change(content.batch), kept | metadata)
    assert len(data) == path.stat().st_size
    path.write_bytes(data)


def test_inspect_prints_the_manifest_and_draws_pairs(config, capsys):
    inspect(config)
    text = capsys.readouterr().out
    assert "40 in 2 shards" in text and "heun, 4 steps, guidance 1" in text
    assert text.count(".parquet") == 2
    with Image.open(Path(config.run) / "pairs.png") as picture:
        assert len(picture.convert("L").getcolors()) > 50


def test_a_sound_set_passes_and_is_described(config, capsys):
    verify(configure(Path(config.run), resolve=40))
    text = capsys.readouterr().out
    assert "channel 2: mean" in text
    assert "40 pairs are sound, 0 of their images a second time" in text
    assert "40 pairs solved again: largest difference 0.000" in text


def test_mean_deviation_and_doubles_are_those_of_the_images(config, capsys):
    rewrite(config, lambda pairs: replace(pairs, images=torch.ones_like(pairs.images)))
    verify(config)
    text = capsys.readouterr().out
    with LocalStore(Path(config.pairs.output)).open(
        "pairs-000000000000-000000000020.parquet"
    ) as file:
        first = schema.decode_all(file, (3, 4, 4), "it").batch.images.double()
    images = torch.cat([first, torch.ones(20, 3, 4, 4)])[:, 1]
    expected = f"mean {images.mean():.4f}, deviation {images.std(correction=0):.4f}"
    assert f"channel 1: {expected}" in text
    assert "19 of their images a second time" in text


@pytest.mark.parametrize(
    ("change", "metadata", "fault"),
    [
        (lambda p: replace(p, ids=p.ids + 20), {}, "other ids"),
        (lambda p: replace(p, labels=p.labels.flip(0)), {}, "other labels"),
        (lambda p: replace(p, images=p.images * float("nan")), {}, "not finite"),
        (lambda p: p, {"plan": "0" * 16}, "another plan"),
    ],
)
def test_wrong_content_is_found(config, change, metadata, fault):
    rewrite(config, change, **metadata)
    with pytest.raises(UserError, match=f"1 of 2 shards .*000000000040.parquet: .*{fault}.*delete"):
        verify(config)


def test_a_changed_short_or_missing_shard_is_found_by_the_command(config, capsys):
    path = Path(config.pairs.output) / "pairs-000000000000-000000000020.parquet"
    data = bytearray(path.read_bytes())
    first_value = data.find(b"PAR1") + 400
    data[first_value] ^= 1
    flags = ["--verify", "--run", config.run, "--teacher.kind", "gaussian"]
    for content, fault in (
        (bytes(data), "SHA-256"),
        (bytes(data[:-1]), "bytes, "),
        (None, "is missing"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert main(Job(print, instead={"verify": Job(verify)}), flags) == 2
        error = capsys.readouterr().err
        assert fault in error and path.name in error and len(error.splitlines()) == 1
        path.touch()


def test_pairs_solved_again_must_agree(config):
    again = configure(Path(config.run), resolve=40)
    rewrite(config, lambda pairs: replace(pairs, images=-pairs.images))
    with pytest.raises(UserError, match="solved again differ by up to .* more than 0.02"):
        verify(again)
    rewrite(config, lambda pairs: replace(pairs, noise=pairs.noise.flip(0)))
    with pytest.raises(UserError, match="other noise than its seed 0"):
        verify(again)


def test_pairs_in_bf16_are_solved_again_in_it(tiny_model, prompts, tmp_path, capsys):
    """Whatever is configured, and in batches that round otherwise; other pairs are found."""
    builder = BUILDERS["song"]
    teacher = builder.teacher(tiny_model(builder), prompts).model_dump(mode="json")
    settings = {"count": 8, "shard_size": 4, "steps": 6, "precision": "bf16"}
    tree = {"run": str(tmp_path), "data": {"name": None}, "teacher": teacher, "pairs": settings}
    config = Config.model_validate(tree)
    make_pairs(config)
    inspect(config)
    assert "heun, 6 steps, guidance 1, bf16" in capsys.readouterr().out
    more = {"resolve": 8, "precision": "fp32"}
    for size, bar in ((4, 1e-3), (1, 0.2)):
        again = Config.model_validate(tree | {"pairs": settings | more | {"batch_size": size}})
        verify(again)
        found = re.search(r"RMS (\S+) of the images', in bf16", capsys.readouterr().out)
        assert found and float(found[1]) < bar
    path = next(Path(config.pairs.output).glob("pairs-*.parquet"))
    with LocalStore(path.parent).open(path.name) as file:
        content = schema.decode_all(file, builder.noise().shape[1:], "it")
    kept = {k: v for k, v in content.metadata.items() if k not in ("shape", "dtype", "sha256")}
    others = replace(content.batch, images=content.batch.images.flip(0))
    path.write_bytes(schema.encode(others, kept))
    with pytest.raises(UserError, match="differ by .* of their RMS, more than 0.2"):
        verify(again)
