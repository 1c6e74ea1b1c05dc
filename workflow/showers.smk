"""A large sample of simulated showers as jobs of their own: one per piece, each with its own seed.

    calostudy run -s workflow/showers.smk --cores 16 \
        --config dataset=ds2 showers=100000 seed=1 out=ds2-large.h5

Choices, by --config: dataset, showers, out; seed (1), piece (1000 showers to a job), emin and emax (GeV;
the dataset's), physics (data-free), brem (rel). Killed, it goes on with the same command: finished
pieces stay in OUT.pieces/, and a piece that was begun resumes where it was.
"""

import sys

missing = [key for key in ("dataset", "showers", "out") if key not in config]
if missing:
    raise WorkflowError(f"missing --config {', '.join(f'{key}=...' for key in missing)}")

N, PIECE, SEED = (int(config.get(key, default)) for key, default in
                  (("showers", 0), ("piece", 1000), ("seed", 1)))
if N < 1 or PIECE < 1 or SEED < 0:
    raise WorkflowError(f"showers={N} and piece={PIECE} must be at least 1, seed={SEED} at least 0")
OUT = str(config["out"])
COUNTS = [min(PIECE, N - first) for first in range(0, N, PIECE)]
OPTIONS = " ".join(
    f"--{key} {config[key]}" for key in ("emin", "emax", "physics", "brem") if key in config
)


def path(number):
    return f"{OUT}.pieces/{number:05d}.h5"


localrules:
    sample,


rule sample:
    input:
        [path(number) for number in range(len(COUNTS))],
    output:
        OUT,
    shell:
        "{sys.executable} -m calostudy.geant4.joining {output} {input} && rm -r {OUT}.pieces"


rule piece:
    output:
        f"{OUT}.pieces/{{number}}.h5",
    params:
        size=lambda wildcards: COUNTS[int(wildcards.number)],
        # Pieces of one sample never share a seed, nor do those of samples of other seeds.
        seed=lambda wildcards: 1_000_000 * (SEED + 1) + int(wildcards.number),
        dataset=config["dataset"],
        options=OPTIONS,
    threads: 1
    log:
        f"{OUT}.pieces/{{number}}.log",
    shell:
        "{sys.executable} -m calostudy.cli simulate {params.dataset} -n {params.size}"
        " --seed {params.seed} --out {output} {params.options} > {log} 2>&1"
