"""The one error that is the user's to mend."""

import re

from pipeline.utils.uris import masked


class UserError(Exception):
    """Bad input: the message names the setting or file, its value, and the way out.

    Jobs print it as one line and end with exit code 2.
    """


class DamagedError(UserError):
    """One file of a set is not what it should be; the others may be sound."""


class CodeError(UserError):
    """A fault in the code, which may be the user's own: the message has the error and its place."""


class StoppedError(UserError):
    """The user stopped the job, which can go on."""


def one_line(error: BaseException) -> str:
    """An error's text for people: one line, without control characters or credentials."""
    text = masked(" ".join(str(error).split()))
    return "".join(each if each.isprintable() else "?" for each in text)


def first_line(error: BaseException) -> str:
    """Of an error's text, with the lines that it announces by a colon; of a traceback, the last.

    It is without the space around it; the error's class, if it says nothing.
    """
    text = repr(error) if isinstance(error, KeyError) else str(error).strip()
    if re.search(r'^ *File ".*", line \d', text, re.MULTILINE):
        return text.splitlines()[-1].strip()
    announced = re.split(r"(?<!:)\n", text, maxsplit=1)[0]
    return " ".join(announced.split()) or type(error).__name__


def problem_line(error: Exception) -> str:
    """What the user can mend in full; of any other error its type and first line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    name, text = type(error).__name__, first_line(error)
    return text if text.startswith(name) else f"{name}: {text}"
