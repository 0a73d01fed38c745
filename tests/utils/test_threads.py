"""Laws of work done ahead."""

import time

import pytest

from pipeline.utils.threads import ahead


def test_results_come_in_order_whoever_is_first():
    def slow(item):
        time.sleep(0.02 * (item % 3 == 0))
        return item

    assert list(ahead(slow, range(20), 4)) == list(range(20))


def test_no_more_is_done_ahead_than_two_for_each_thread():
    begun = []
    results = ahead(begun.append, range(100), 3)
    next(results)
    results.close()
    assert len(begun) <= 6


def test_an_error_comes_in_its_turn_and_ends_the_work():
    begun, results = [], []

    def work(item):
        begun.append(item)
        return 1 // (item - 5)

    with pytest.raises(ZeroDivisionError):
        for result in ahead(work, range(1000), 2):
            results.append(result)
    assert len(results) == 5 and len(begun) < 12
