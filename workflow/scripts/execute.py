"""Execute one notebook of the grid; run by Snakemake, which provides ``snakemake``."""

import os

from calostudy.study import execute

# What the notebook's kernel and a failure say goes to the log, which Snakemake shows on failure.
with open(snakemake.log[0], "wb") as log:  # noqa: F821, PTH123
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)

execute(snakemake.params.kind, snakemake.params.parameters, snakemake.output.page)  # noqa: F821
