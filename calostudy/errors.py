"""The errors that calostudy raises on purpose; the command line turns them into exit codes."""


class CaloStudyError(Exception):
    """Base of every error that calostudy raises on purpose."""


class DataError(CaloStudyError):
    """A file or an array is not what it should be (exit code 1).

    The message names the file, says what is wrong with it and what was expected.
    """


class UsageError(CaloStudyError, ValueError):
    """A name or an option that does not exist or makes no sense (exit code 2)."""
