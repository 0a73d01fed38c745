"""The one error that is the user's to mend."""


class UserError(Exception):
    """Bad input: the message names the setting or file, its value, and the way out.

    Jobs print it as one line and end with exit code 2.
    """


class DamagedError(UserError):
    """One file of a set is not what it should be; the others may be sound."""


class StoppedError(UserError):
    """The user stopped the job, which can go on."""


def first_line(error: Exception) -> str:
    """Of an error's text, without the space around it; the error's class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
