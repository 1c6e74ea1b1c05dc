"""The errors that calostudy raises on purpose; the command line turns them into exit codes."""

import sys


class CaloStudyError(Exception):
    """Base of every error that calostudy raises on purpose."""


class DataError(CaloStudyError):
    """A file or an array is not what it should be (exit code 1).

    The message names the file, says what is wrong with it and what was expected.
    """


class UsageError(CaloStudyError, ValueError):
    """A name or an option that does not exist or makes no sense (exit code 2)."""


def exit_status(error: Exception) -> int:
    """Say what is wrong on standard error: 1 for bad data, 2 for anything else.

    >>> exit_status(DataError("x.h5: truncated"))
    1
    """
    print(f"error: {error}", file=sys.stderr)
    return 1 if isinstance(error, DataError) else 2
