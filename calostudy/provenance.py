"""Where a number comes from: code, libraries, machine, moment."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from calostudy import __version__
from calostudy.hardware import describe_machine


@cache
def code_version() -> str:
    """Version of the package and, in a checkout, its commit, with "+changes" if any differ.

    >>> code_version().startswith(__version__)
    True
    """
    top = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(top), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD") if (top / ".git").exists() else ""
    if not commit:
        return __version__
    return f"{__version__} ({commit}{'+changes' if git('status', '--porcelain', '-uno') else ''})"


@cache
def source_digest() -> str:
    """A short hash of the package's sources: numbers that another code made are made anew."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def processor() -> str:
    """The processor of this machine and how many cores this process may use."""
    about = describe_machine()
    return f"{about['cpu']}, {about['cores']} cores"


def provenance() -> dict[str, Any]:
    """Code version, machine with its library versions, and the time (UTC), ready for JSON."""
    return {
        "code": code_version(),
        "machine": describe_machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
