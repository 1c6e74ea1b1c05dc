"""Building blocks that several surrogates share."""
