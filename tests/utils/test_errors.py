"""One line of an error holds its cause."""

import pytest

from pipeline.utils.errors import UserError, first_line, problem_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(" one\ntwo "), "one"),
        (ValueError("field 'x':\n    TypeError: not\nmore"), "field 'x': TypeError: not"),
        (ValueError("a:\nb:\n  c\nd"), "a: b: c"),
        (KeyError("x"), "KeyError('x')"),
        (ValueError(), "ValueError"),
        (
            RuntimeError('f()\n  File "a.py", line 1, in f\n    g()\nOSError: full\n'),
            "OSError: full",
        ),
    ],
)
def test_the_line_of_an_error_has_its_cause(error: Exception, told: str) -> None:
    """It goes on after a colon; a traceback ends with it."""
    assert first_line(error) == told


def test_what_the_user_can_mend_is_told_in_full_and_of_other_errors_the_type() -> None:
    assert problem_line(UserError("one\n two")) == "one two"
    assert problem_line(OSError("full\nmore")) == "OSError: full"
    assert problem_line(KeyError("x")) == "KeyError('x')"
