"""Laws of work done ahead."""

import time
from threading import Event, get_ident

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


def test_every_thread_begins_once_before_its_work():
    begun, made = [], []

    def work(item):
        assert get_ident() in begun
        made.append(get_ident())

    list(ahead(work, range(20), 3, lambda: begun.append(get_ident())))
    assert set(made) <= set(begun) and len(begun) == len(set(begun)) <= 3


def test_closed_it_waits_for_what_has_begun():
    done, begun = [], Event()

    def slow(item):
        if item:
            begun.set()
            time.sleep(0.05)
        done.append(item)

    results = ahead(slow, range(100), 1)
    next(results)
    begun.wait(10)
    results.close()
    assert done == [0, 1]
