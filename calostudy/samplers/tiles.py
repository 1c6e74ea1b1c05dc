"""Plain torch with the same bits for a shower in every batch.

A matrix product may round a row differently in another batch, or in another place of it. Here a
function sees tiles of constant size only, and each shower always at the same place of its tile.
A GPU, whose libraries promise no such thing, sees as many showers at once as there are.
"""

from collections.abc import Callable

import numpy as np
import torch

TILE, OF_GPU = 16, 4096


def in_tiles(
    function: Callable[..., np.ndarray], first: int, *rows: np.ndarray, tile: int = TILE
) -> np.ndarray:
    """function(*rows), where rows (n, ...) belong to the showers first ... first + n - 1 and the
    function works on each shower by itself. Tiles that are not full are filled with copies."""
    n, offset = len(rows[0]), first % tile
    if torch.get_default_device().type != "cpu":
        starts = range(0, n, OF_GPU)
        return np.concatenate([function(*(a[i : i + OF_GPU] for a in rows)) for i in starts])
    parts = []
    for start in range(-offset, n, tile):
        index = np.clip(np.arange(start, start + tile), 0, n - 1)
        found = function(*(array[index] for array in rows))
        parts.append(found[max(0, -start) : n - start])
    return np.concatenate(parts)
