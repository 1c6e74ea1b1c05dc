"""Execute one notebook of the grid; run by Snakemake, which provides ``snakemake``."""

from calostudy.study import execute

execute(snakemake.params.kind, snakemake.params.parameters, snakemake.output.page)  # noqa: F821
