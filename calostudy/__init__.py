"""calostudy: a reproducible study of generative surrogates for calorimeter simulation."""

__version__ = "0.1.0"
