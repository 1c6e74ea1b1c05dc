"""Where the study's data live."""

import os
from pathlib import Path


def data_dir() -> Path:
    """Return the folder with showers, weights and published figures.

    It is the environment variable ``CALOSTUDY_DATA`` where that is set, else ``data/`` of the
    checkout that this package is imported from, else ``data/`` in the current directory.
    """
    chosen = os.environ.get("CALOSTUDY_DATA")
    if chosen:
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data"
    return Path("data")
