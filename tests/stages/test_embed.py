"""Laws of the maker of conditions, and of what looks at a set of them."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli import main
from pipeline.cli.job import Job
from pipeline.config import Config, EmbedConfig
from pipeline.data import conditions, shards
from pipeline.data.plans import ConditionPlan
from pipeline.data.storage import Storage
from pipeline.diffusion.condition import Condition
from pipeline.models.condition import Prompts
from pipeline.models.encoders import condition_plan
from pipeline.stages.embed import ConditionMaker
from pipeline.stages.verify_conditions import inspect_conditions, verify_conditions
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import embed_prompts


@pytest.fixture
def config(tiny_model, prompts, tmp_path) -> Config:
    """The settings of a closed set of four conditions in two shards."""
    folder = shutil.copytree(tiny_model(BUILDERS["sana"]), tmp_path / "model")
    teacher = BUILDERS["sana"].teacher(folder, prompts)
    embed_prompts(str(tmp_path / "conditions"), teacher, "bf16", shard_size=3)
    tree = {"run": str(tmp_path), "data": {"name": None}, "teacher": teacher.model_dump()}
    return Config.model_validate(tree)


def store_of(config: Config) -> Storage:
    return Storage(config.embed.output, config.s3, "embed.output")


def maker_of(config: Config) -> ConditionMaker:
    plan = shards.read_manifest(store_of(config), ConditionPlan).plan
    return ConditionMaker(config.teacher, plan, store_of(config))


def test_a_shard_that_is_there_is_not_made_again_and_a_lost_one_has_the_same_bytes(config):
    store, maker = store_of(config), maker_of(config)
    before = {name: store.get(name) for name in store.list()}
    shard = next(name for name in before if name.endswith(".parquet"))
    store.delete(shard)
    for index in (1, 0):
        maker.make(index)
    assert {name: store.get(name) for name in store.list()} == before


def test_the_negative_prompt_is_the_last_row(config):
    asked = []
    maker = maker_of(config)
    plain = maker.prompts.encode

    def encode(texts: list[str], negative: bool, device: torch.device) -> Condition:
        asked.append((*texts, negative))
        return plain(texts, negative, device)

    maker.prompts.encode = encode
    for index in (0, 1):
        maker.make(index)
    assert asked == [*((text, False) for text in maker.prompts.prompts), ("blurry", True)]


def test_a_node_with_other_encoders_or_prompts_or_no_set_is_told(config, tmp_path):
    maker = maker_of(config)
    (tmp_path / "other.prompts").write_text('"a cow"\n')
    others = config.teacher.model_copy(update={"prompts": str(tmp_path / "other.prompts")})
    with pytest.raises(UserError, match="teacher.output: node .* has other text encoders or promp"):
        ConditionMaker(others, maker.plan, store_of(config)).make(0)
    elsewhere = Storage(str(tmp_path / "nowhere"), config.s3, "embed.output")
    with pytest.raises(UserError, match="embed.output: node .* does not see"):
        ConditionMaker(config.teacher, maker.plan, elsewhere).make(0)
    assert "embed.actors" in maker.too_large


def test_values_that_are_not_finite_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Prompts, "row", lambda *_: Condition({"pooled": torch.full((1, 2), torch.nan)})
    )
    store = Storage(str(tmp_path / "new"), config.s3, "embed.output")
    plan = condition_plan(config.teacher, "fp32", 3)
    shards.open_plan(store, plan)
    with pytest.raises(FloatingPointError, match="pooled of prompt 0 "):
        ConditionMaker(config.teacher, plan, store).make(0)


def test_a_set_of_a_million_prompts_is_planned_without_a_list_of_them(config, tmp_path):
    """8 bytes a prompt; the prompts are read where they stand."""
    import tracemalloc

    many = tmp_path / "many.prompts"
    many.write_text("".join(f'"prompt number {n}"\n' for n in range(1_000_000)))
    teacher = config.teacher.model_copy(update={"prompts": str(many)})
    tracemalloc.start()
    plan = condition_plan(teacher, "bf16", 250)
    left = shards.missing(store_of(config), plan, plan.rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.rows == 1_000_001 and len(left) == 4001
    assert peak < 48 * 2**20


def test_inspect_prints_the_set(config, capsys):
    inspect_conditions(config)
    text = capsys.readouterr().out
    assert "4 in 2 shards" in text and "3, away from 'blurry', bf16" in text
    assert "tokens 300x8, mask 300, 7 counted" in text and text.count(".parquet") == 2


def test_a_sound_set_passes_and_a_flipped_byte_of_any_column_is_found(config, capsys):
    verify_conditions(config)
    assert "4 conditions are sound" in capsys.readouterr().out
    for path in Path(config.embed.output).glob("*.parquet"):
        whole, groups = path.read_bytes(), pq.read_metadata(path)
        for group in range(groups.num_row_groups):
            for number in range(groups.num_columns):
                column = groups.row_group(group).column(number)
                end = column.data_page_offset + column.total_compressed_size
                damaged = bytearray(whole)
                damaged[end - 1] ^= 16
                path.write_bytes(damaged)
                told = f"1 of 2 shards are bad.*{path.name}.*jobs/embed.py again"
                with pytest.raises(UserError, match=told):
                    verify_conditions(config)
        path.write_bytes(whole)


def test_of_shards_with_other_tensors_none_is_named_but_they(config, tmp_path):
    new = EmbedConfig(output=str(tmp_path / "new"))
    config = config.model_copy(update={"embed": new})
    store, plan = store_of(config), condition_plan(config.teacher, "fp32", 1)
    shards.open_plan(store, plan)
    for span in plan.spans(plan.rows):
        kind = torch.float64 if 1 in span else torch.float32
        conditions.write(store, plan, span, [Condition({"pooled": torch.ones(1, 2, dtype=kind)})])
    shards.close(store, plan, plan.rows)
    with pytest.raises(UserError, match=r"1 of 4 shards are bad, .*1-\d*2.parquet: has other tens"):
        verify_conditions(config)


def test_a_short_or_missing_shard_is_found_by_the_command(config, capsys):
    path = min(Path(config.embed.output).glob("*.parquet"))
    whole = path.read_bytes()
    flags = ["--verify", "--run", config.run, "--embed.output", config.embed.output]
    for content, fault in ((whole[:-1], "bytes, "), (None, "is missing")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert main(Job(print, instead={"verify": Job(verify_conditions)}), flags) == 2
        error = capsys.readouterr().err
        assert fault in error and path.name in error and len(error.splitlines()) == 1
        path.touch()
