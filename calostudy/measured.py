"""Tables that measuring commands write line by line, and read again to go on where they were."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from calostudy.errors import DataError
from calostudy.files import atomic_path


def read_lines(path: str | Path, fields: Sequence[str], **options) -> pd.DataFrame:
    """The lines of a CSV file (compressed or not) with these columns; none where there is no file.

    options: of `pandas.read_csv`.

    Raises:
        DataError: it is not readable, or has other columns.
    """
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=fields)
    try:
        table = pd.read_csv(path, **options)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: not a readable table ({error})") from None
    if tuple(table.columns) != tuple(fields):
        raise DataError(
            f"{path}: its columns are {', '.join(table.columns)}, expected {', '.join(fields)}"
        )
    return table


def write_lines(
    path: str | Path, table: pd.DataFrame, fields: Sequence[str], digits: int | None = 6
) -> None:
    """The lines of a table as a CSV file with these columns, whole or not at all; numbers with so
    many digits, or all."""
    number = None if digits is None else f"%.{digits}g"
    with atomic_path(path) as temporary:
        table[list(fields)].to_csv(temporary, index=False, lineterminator="\n", float_format=number)
