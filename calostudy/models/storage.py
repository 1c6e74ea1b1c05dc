"""How the parameters of a network go to disk and come back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# What nflows' masked layers keep beside their weights: construction gives it back.
_REBUILT = ("mask", "degrees")

LARGE = 10_000
"""Entries from which on a matrix is stored in eight bits, where a network is."""

SCALE = ".scale"
"""Ends the name of a matrix in the name of its scales."""


def stored(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a network as it goes to disk: parameters in `dtype`, buffers as they are; of
    a masked weight only the entries that take part.

    With torch.int8, matrices of at least `LARGE` such entries, also one for each place, are whole
    numbers times a scale for each row or place, (rows,), stored beside them; all other parameters
    are float16. Parts of a network that it calls `training_only` are left out.
    """
    masks, parameters = _masks(network), dict(network.named_parameters())
    found = {}
    for key, tensor in _state(network).items():
        mask = masks.get(key)
        entries = tensor if mask is None else tensor[mask]
        if key not in parameters:
            found[key] = entries
        elif dtype is not torch.int8:
            found[key] = entries.to(dtype)
        elif tensor.ndim not in (2, 3) or entries.numel() < LARGE:
            found[key] = entries.half()
        else:
            numbers, found[key + SCALE] = _rounded(tensor if mask is None else tensor * mask)
            found[key] = numbers if mask is None else numbers[mask]
    return {key: tensor.contiguous() for key, tensor in found.items()}


def restore(network: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Inverse of `stored`, in the network's own precision, whatever that on disk was.

    Raises:
        KeyError: a tensor is missing, left over or of another shape.
    """
    masks, state = _masks(network), _state(network)
    wanted = {key: t[masks[key]] if key in masks else t for key, t in state.items()}
    in_eight_bits = [key for key in wanted if key in found and found[key].dtype is torch.int8]
    scales = {key + SCALE: state[key].flatten(1)[:, 0] for key in in_eight_bits}
    same_shapes(found, wanted | scales)
    for key, tensor in state.items():
        entries = found[key]
        if key in masks:
            tensor.zero_()
            tensor[masks[key]] = entries.to(tensor.dtype)
        else:
            tensor.copy_(entries)
        if key in in_eight_bits:
            scale = found[key + SCALE].to(tensor.dtype)
            tensor.mul_(scale.view(-1, *[1] * (tensor.ndim - 1)))


def same_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises KeyError where tensors are missing, left over or of another shape."""
    for key in sorted({*found, *wanted}):
        if key not in wanted or key not in found:
            raise KeyError(f"{key} is {'missing' if key in wanted else 'unexpected'}")
        if found[key].shape != wanted[key].shape:
            shapes = f"{tuple(found[key].shape)}, expected {tuple(wanted[key].shape)}"
            raise KeyError(f"{key} has shape {shapes}")


def _rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (R, ...) from -127 to 127 and scales (R,), whose products are next to a matrix.

    A product of seven and eight bits is exact in float32: what was restored is stored as it was.
    """
    rows = matrix.flatten(1)
    scale = (rows.abs().amax(dim=1) / 127.0).to(torch.bfloat16)
    scale = torch.where(scale == 0.0, 1.0, scale)
    numbers = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return numbers.view_as(matrix), scale


def _state(network: nn.Module) -> dict[str, Tensor]:
    left_out = getattr(network, "training_only", ())
    return {
        key: tensor
        for key, tensor in network.state_dict().items()
        if key.rpartition(".")[2] not in _REBUILT and key.partition(".")[0] not in left_out
    }


def _masks(network: nn.Module) -> dict[str, Tensor]:
    """For each masked weight, which of its entries take part."""
    return {
        f"{name}.weight": module.mask.bool()
        for name, module in network.named_modules()
        if hasattr(module, "mask") and hasattr(module, "weight")
    }
