"""Work done ahead by threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int,
    begin: Callable[[], object] | None = None,
) -> Generator[_Result]:
    """Results in the order of the items, made by threads, at most two for each waiting.

    While a result is used, one thread makes the next; closed, it waits for what has begun.

    Args:
        work: Makes a result of an item.
        items: Taken as results are asked for.
        threads: Their number.
        begin: Is called by each thread before its first item.

    Raises:
        Exception: What the work raises, in its turn; what has not begun is not done then.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
