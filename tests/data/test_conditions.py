"""Laws of stored conditions: what is written comes back, in little more than its own bytes."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import S3Config
from pipeline.data import conditions, shards
from pipeline.data.conditions import GROUP_ROWS, ConditionReader
from pipeline.data.plans import ConditionPlan
from pipeline.data.storage import Storage
from pipeline.diffusion.condition import Condition
from pipeline.utils.errors import UserError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def planned(count: int, precision: str = "bf16", shard_size: int = 4) -> ConditionPlan:
    return ConditionPlan(
        family="toy",
        pipeline="ToyPipeline {}",
        encoders="0",
        tokenizers="1",
        template=None,
        prompts="2",
        count=count - 1,
        negative_prompt="",
        precision=precision,
        shard_size=shard_size,
    )


def stored(
    folder: Path, rows: list[Condition], plan: ConditionPlan, whole: bool = False
) -> ConditionReader:
    """A closed set of these rows."""
    store = Storage(str(folder), S3Config(), "embed.output")
    shards.open_plan(store, plan)
    for ids in plan.spans(plan.rows):
        conditions.write(store, plan, ids, [rows[id] for id in ids], whole)
    return ConditionReader(store, shards.close(store, plan, plan.rows))


def decoded(
    rows: list[Condition], plan: ConditionPlan, whole: bool = False
) -> dict[int, Condition]:
    """What a shard of these rows holds, which lies in memory."""
    shard = conditions.encode(plan, range(len(rows)), rows, whole)
    return conditions.decode_all(pa.BufferReader(shard), "it").batch


def text(length: int, counted: int, width: int = 3, seed: int = 0) -> Condition:
    """Of an encoder that pads, or fills up with what the network does not read."""
    rng = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) < counted).long()[None]
    tokens = torch.randn(1, length, width, generator=rng)
    return Condition({"tokens": tokens, "mask": mask, "pooled": tokens.sum(1)})


_values = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
_shapes = st.lists(st.integers(0, 5), max_size=4)
_tokens = st.tuples(st.integers(0, 5), st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(
    tensors=st.dictionaries(st.sampled_from(["labels", "pooled", "image", "tokens"]), _values),
    shapes=st.lists(
        st.fixed_dictionaries({**dict.fromkeys("lpi", _shapes), "t": _tokens}),
        min_size=2,
        max_size=9,
    ),
    precision=st.sampled_from(["fp16", "bf16", "fp32"]),
)
def test_any_named_tensors_come_back_rounded(tensors, shapes, precision):
    """Of any shapes and types, each row of its own; what is no floating-point number stays."""
    if not tensors:
        return
    rows = [
        Condition({n: (9 * torch.randn(1, *each[n[0]])).to(d) for n, d in tensors.items()})
        for each in shapes
    ]
    content = decoded(rows, planned(len(rows), precision))
    assert list(content) == list(range(len(rows)))
    for row, found in zip(rows, content.values(), strict=True):
        assert list(found.tensors) == list(row.tensors)
        for name, value in row.tensors.items():
            kept = value.to(DTYPES[precision]) if value.is_floating_point() else value
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], kept.to(value.dtype))


@settings(max_examples=40, deadline=None)
@given(mask=st.lists(st.lists(st.booleans(), min_size=1, max_size=40), min_size=2, max_size=6))
def test_tokens_that_the_mask_leaves_out_are_not_stored(mask):
    """Wherever they are; a network that reads them has them stored on demand."""
    rows = [text(len(each), 0, width=64, seed=n) for n, each in enumerate(mask)]
    for row, each in zip(rows, mask, strict=True):
        row["mask"][0] = torch.tensor(each)
    for whole in (False, True):
        plan = planned(len(rows), "fp32")
        shard = conditions.encode(plan, range(len(rows)), rows, whole)
        table = pq.read_table(pa.BufferReader(shard))
        lengths = [len(tokens) for tokens in table["tokens"].to_pylist()]
        kept = [len(each) if whole else sum(each) for each in mask]
        assert lengths == [64 * 4 * length for length in kept]
        for row, found in zip(rows, decoded(rows, plan, whole).values(), strict=True):
            dropped = row["tokens"] * (1 if whole else row["mask"][:, :, None])
            assert torch.equal(found["tokens"], dropped) and torch.equal(found["mask"], row["mask"])
            assert torch.equal(found["pooled"], row["pooled"])


@settings(max_examples=40, deadline=None)
@given(told=st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=6))
def test_without_a_mask_zeros_at_the_end_are_not_stored(told):
    """Zeros before a token that is none are."""
    rows = [
        Condition({"tokens": torch.tensor(each)[None, :, None] * torch.ones(8)}) for each in told
    ]
    plan = planned(len(rows), "fp32")
    table = pq.read_table(pa.BufferReader(conditions.encode(plan, range(len(rows)), rows, False)))
    kept = [len("".join("01"[each] for each in row).rstrip("0")) for row in told]
    assert [len(tokens) for tokens in table["tokens"].to_pylist()] == [4 * 8 * n for n in kept]
    for row, found in zip(rows, decoded(rows, plan).values(), strict=True):
        assert torch.equal(found["tokens"], row["tokens"])


def test_a_file_has_one_percent_more_than_its_values_and_small_row_groups(tmp_path):
    """Of short, usual and long rows."""
    for width, length in ((768, 77), (2304, 20), (2048, 300)):
        folder = tmp_path / f"{width}"
        rows = [text(length, length - n % 20, width, n) for n in range(30)]
        stored(folder, rows, planned(30, shard_size=15))
        payload = sum(2 * (int(r["mask"].sum()) + 1) * width for r in rows)
        files = sorted(folder.glob("*.parquet"))
        assert sum(file.stat().st_size for file in files) <= 1.01 * payload
        groups = pq.read_metadata(files[0])
        most = max(groups.row_group(n).num_rows for n in range(groups.num_row_groups))
        assert most <= min(GROUP_ROWS, 8)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    rows = [text(9, 3 + n, seed=n) for n in range(6)]
    for name in ("one", "two"):
        stored(tmp_path / name, rows, planned(6))
    files = sorted(each.name for each in (tmp_path / "one").iterdir())
    assert files == sorted(each.name for each in (tmp_path / "two").iterdir()) and len(files) == 4
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_values_that_the_precision_does_not_hold_are_refused(tmp_path):
    large = Condition({"pooled": torch.full((1, 2), 1e5)})
    stored(tmp_path / "bf16", [large] * 2, planned(2, "bf16"))
    with pytest.raises(FloatingPointError, match="pooled of prompt 0 .*not finite in float16"):
        stored(tmp_path / "fp16", [large] * 2, planned(2, "fp16"))


def test_a_label_without_a_row_is_one_line(tmp_path):
    reader = stored(tmp_path, [text(9, 3)] * 3, planned(3))
    assert reader.null == 2 and len(reader.rows([2, 0])) == 2
    for label in (3, -1):
        with pytest.raises(UserError, match=rf"distill.conditions: .*2 prompts, .*label {label};"):
            reader.rows([0, label])


def test_rows_come_in_any_order_and_as_often_as_they_are_asked_for(tmp_path):
    rows = [text(9, 1 + n % 9, seed=n) for n in range(30)]
    reader = stored(tmp_path, rows, planned(30, "fp32", shard_size=7))
    order = [*reversed(range(30)), 3, 3, 29, 0]
    for id, found in zip(order, reader.rows(order), strict=True):
        assert all(torch.equal(found[name], rows[id][name]) for name in ("pooled", "mask"))


@pytest.mark.parametrize("bad", range(6))
def test_damage_of_a_row_is_one_line(tmp_path, bad):
    """Of any byte of its values; rows of other row groups are still read."""
    rows = [text(40, 40, 2048, seed=n) for n in range(6)]
    reader = stored(tmp_path, rows, planned(6, shard_size=6))
    (file,) = tmp_path.glob("*.parquet")
    wanted = rows[bad]["tokens"].to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    whole = file.read_bytes()
    at, group = whole.index(wanted), bad // 2
    for offset in (0, len(wanted) // 3, len(wanted) - 1):
        content = bytearray(whole)
        content[at + offset] ^= 1 << offset % 8
        file.write_bytes(content)
        for id in range(6):
            if id // 2 != group:
                assert torch.equal(reader.rows([id])[0]["mask"], rows[id]["mask"])
                continue
            with pytest.raises(UserError, match=f"{file}.*row group {group} .*jobs/embed.py again"):
                reader.rows([id])


def test_a_shard_that_is_gone_short_or_of_another_set_is_one_line(tmp_path):
    rows = [text(9, 3, seed=n) for n in range(4)]
    (tmp_path / "others").mkdir()
    stored(tmp_path / "others", rows, planned(4, "fp32"))
    plan = planned(4)
    stored(tmp_path / "set", rows, plan)
    file, other = (next((tmp_path / each).glob("*.parquet")) for each in ("set", "others"))
    whole = file.read_bytes()
    for content, told in (
        (None, "cannot read"),
        (whole[:-1], "bytes, "),
        (other.read_bytes()[: len(whole)], "jobs/embed.py again"),
    ):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        store = Storage(str(tmp_path / "set"), S3Config(), "embed.output")
        with pytest.raises(UserError, match=told):
            ConditionReader(store, shards.read_manifest(store, ConditionPlan)).rows([1])
        file.touch()


def test_footers_are_read_once(tmp_path, monkeypatch):
    reader = stored(tmp_path, [text(9, 3, seed=n) for n in range(9)], planned(9))
    reads, plain = [], ConditionReader._read_footer
    monkeypatch.setattr(
        ConditionReader, "_read_footer", lambda self, n: (reads.append(n), plain(self, n))[1]
    )
    store = Storage(str(tmp_path), S3Config(), "embed.output")
    reader = ConditionReader(store, shards.read_manifest(store, ConditionPlan))
    for _ in range(3):
        reader.rows(range(9))
    assert sorted(reads) == [0, 1, 2]
