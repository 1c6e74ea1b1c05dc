"""The figure of `data/measured/shifts.csv`: ``python benchmarks/plot_shifts.py OUT.svg``."""

import sys

import matplotlib.pyplot as plt
import pandas as pd

from calostudy.paths import data_dir
from calostudy.shifts import SHIFTS

LABELS = ("not moved", "1/3, 0", "1/3, 1/3", "1/2, 1/2")
STYLES = {"points": "-o", "cells": "--s"}


def main():
    table = pd.read_csv(data_dir() / "measured" / "shifts.csv")
    plt.rcParams["svg.hashsalt"] = "calostudy"
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    places = range(len(SHIFTS))
    for (whose, kept_as), rows in table.groupby(["showers_of", "kept_as"], sort=False):
        axes.errorbar(
            places, 100 * rows["difference"], 100 * rows["uncertainty"],
            fmt=STYLES[kept_as], capsize=3, label=f"{whose}, {kept_as}",
        )  # fmt: skip
    axes.set_xticks(places, LABELS)
    axes.set(xlabel="shift in cells, along eta and phi", ylabel="cells hit, difference in %")
    axes.legend(fontsize="small")
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
