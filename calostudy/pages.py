"""One walk of the study run as a notebook by papermill.

Only the notebook's kernel imports the walks, which takes longer than many a page.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from calostudy.files import atomic_path


def execute(kind: str, title: str, parameters: dict[str, Any], output: str | Path) -> None:
    """Run ``notebooks/<kind>.ipynb`` with ``parameters`` as a page with this title.

    ``output`` appears only when every cell ran; what a failed run reached is kept beside it as
    ``<name>.failed.ipynb``.

    Raises:
        papermill.PapermillExecutionError: A cell failed.
    """
    import nbformat
    import papermill

    notebook = nbformat.read(Path("notebooks") / f"{kind}.ipynb", as_version=4)
    first = notebook.cells[0]
    first.source = f"# {title}\n" + first.source.partition("\n")[2]
    output = Path(output)
    # A backend chosen for scripts, such as agg, would leave the page without its figures.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    with atomic_path(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook, str(temporary), parameters=parameters, progress_bar=sys.stderr.isatty()
            )
        except Exception:
            if Path(temporary).exists():
                shutil.copy(temporary, output.with_suffix(".failed.ipynb"))
            raise
