"""Metrics: generated showers against reference showers, each number with its uncertainty."""

from calostudy.metrics.evaluation import Score, evaluate
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.measures import CLOUD_METRICS, DEFAULT, METRICS
from calostudy.metrics.sample import Sample

__all__ = [
    "CLOUD_METRICS",
    "DEFAULT",
    "METRICS",
    "Measurement",
    "Options",
    "Sample",
    "Score",
    "evaluate",
]
