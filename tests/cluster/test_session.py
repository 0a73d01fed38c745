"""What Ray wraps around errors of its workers comes off on their way back."""

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from pipeline.cluster.session import user_errors
from pipeline.utils.errors import DamagedError, StoppedError, UserError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def workers(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("Traceback (most recent call last): ...", dict(enumerate(failures)))


def raised(error: Exception) -> BaseException:
    with pytest.raises(Exception) as caught, user_errors():
        raise error
    return caught.value


@pytest.mark.parametrize(
    "failures",
    [
        (UserError("pairs.output: torn"), UserError("pairs.output: torn")),
        (RuntimeError("connection closed by peer"), UserError("pairs.output: torn")),
        (UserError("pairs.output: torn"), UserError("pairs.output: another"), ValueError("x")),
        (ValueError("x"), caused(RuntimeError("y"), UserError("pairs.output: torn"))),
        (ValueError("x"), workers(KeyError("y"), UserError("pairs.output: torn"))),
    ],
    ids=["all", "the last", "different", "a cause", "nested"],
)
def test_failures_of_several_workers_become_one_line(failures):
    error = raised(workers(*failures))
    assert type(error) is UserError
    assert str(error) == "pairs.output: torn"
    assert error.__suppress_context__ and error.__cause__ is None, "Ray's traceback is not shown"


@pytest.mark.parametrize("kind", [UserError, DamagedError, StoppedError])
@pytest.mark.parametrize("wrap", [workers, ControllerError, lambda cause: caused(OSError(), cause)])
def test_an_error_keeps_its_kind(kind, wrap):
    plain = raised(wrap(kind("pairs.output: torn")))
    remote = RayTaskError("f", "Traceback: ...", kind("pairs.output: torn")).as_instanceof_cause()
    for error in (plain, raised(wrap(remote)), raised(remote)):
        assert type(error) is kind and str(error) == "pairs.output: torn"


@pytest.mark.parametrize(
    "error",
    [
        workers(RuntimeError("connection closed by peer"), ValueError("x")),
        workers(),
        ControllerError(RuntimeError("no room")),
    ],
    ids=["workers", "none", "controller"],
)
def test_failures_that_are_no_users_stay_as_they_are(error):
    assert raised(error) is error


def test_failures_that_name_each_other_end():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert raised(workers(first, second)).worker_failures == {0: first, 1: second}
