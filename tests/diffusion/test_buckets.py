"""Laws of the deck that deals a sequence to several buckets."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.buckets import Buckets

weights = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def of(weights: list[int]) -> Buckets:
    return Buckets(tuple((1, 2, 2 + n) for n in range(len(weights))), tuple(weights))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(weights=weights, seed=st.integers(0, 2**32 - 1), turn=st.integers(0, 10**12))
def test_shares_are_exact_in_every_round(weights, seed, turn):
    buckets = of(weights)
    first = turn * buckets.round
    dealt = [buckets.place(first + n, "x", seed).bucket for n in range(buckets.round)]
    times = sum(weights) // buckets.round
    assert [times * dealt.count(each) for each in range(len(weights))] == weights


@settings(max_examples=60, deadline=None, derandomize=True)
@given(weights=weights, seed=st.integers(0, 2**32 - 1))
def test_ranks_count_each_bucket_without_a_gap(weights, seed):
    seen: Counter[int] = Counter()
    for number in range(5 * sum(weights)):
        bucket, rank = of(weights).place(number, "x", seed)
        assert rank == seen[bucket]
        seen[bucket] += 1


def test_one_bucket_takes_all_as_they_come():
    one = Buckets.one((3, 8, 8))
    assert [one.place(number, "x") for number in (0, 1, 10**15)] == [(0, 0), (0, 1), (0, 10**15)]


def test_rounds_keys_and_seeds_are_shuffled_each_in_its_way():
    buckets = of([3, 2, 4])

    def dealt(turn: int, *key: int | str) -> tuple[int, ...]:
        return tuple(buckets.place(9 * turn + n, *key).bucket for n in range(9))

    assert len({dealt(turn, "x", 0) for turn in range(20)}) > 10
    assert len({dealt(0, name, seed) for name in "xy" for seed in range(10)}) > 10


def test_the_deck_is_what_it_was():
    """Of stored sets it says which shard is of which shape: it must never change."""
    dealt = [of([2, 1, 1]).place(number, "shards", 7).bucket for number in range(12)]
    assert dealt == [1, 2, 0, 0, 0, 0, 1, 2, 2, 0, 1, 0]
