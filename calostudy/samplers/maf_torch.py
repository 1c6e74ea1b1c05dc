"""The inverse of masked autoregressive flows in plain torch, one triangular evaluation, for GPUs.

As in `calostudy.samplers.maf` the hidden units are sorted by degree, so that step f evaluates only
the units that became computable and the spline parameters of feature f: what takes nflows as many
evaluations of the network as there are features takes one, cut into as many pieces. On a GPU the
pieces are too small to keep it busy one by one; they are recorded as a CUDA graph.
"""

import numpy as np
import torch
from torch import Tensor

from calostudy.networks.flows import autoregressive_steps
from calostudy.networks.spline_inverse import inverse_by_torch
from calostudy.samplers.graphs import Graphed
from calostudy.samplers.maf import (
    SortedMade,
    checked_dtype,
    checked_inputs,
    common_settings,
    sampling_steps,
    sorted_made,
)


class TriangularSampler:
    """The inverse of a flow of `calostudy.networks.flows`, on torch's default device.

    Reads the weights once, at construction. dtype: "float32" or "float64".

    Raises UsageError as `calostudy.samplers.maf.IncrementalSampler`.
    """

    def __init__(self, flow, dtype: str = "float32"):
        self.dtype = checked_dtype(flow, dtype)
        transforms, order, self._last_order = sampling_steps(autoregressive_steps(flow))
        settings, kind = common_settings(transforms), getattr(torch, dtype)
        mades = [sorted_made(transform.autoregressive_net) for transform in transforms]
        self.features, self.context = order.shape[1], mades[0].context[0].shape[1]
        self._order = [torch.as_tensor(row) for row in order]
        inverses = [_Inverse(made, settings, kind) for made in mades]
        on_gpu = torch.get_default_device().type == "cuda"
        self._inverses = [Graphed(inverse) for inverse in inverses] if on_gpu else inverses

    @torch.no_grad()
    def inverse(self, noise: np.ndarray, context: np.ndarray | None = None) -> np.ndarray:
        """noise (N, features), context (N, context) -> samples (N, features), of the dtype."""
        noise, context = checked_inputs(noise, context, self.features, self.context, self.dtype)
        return self.of_tensors(*map(torch.as_tensor, (noise, context))).numpy(force=True)

    def of_tensors(self, noise: Tensor, context: Tensor) -> Tensor:
        """The same with tensors."""
        values, given = noise.t(), context.t().contiguous()
        for order, inverse in zip(self._order, self._inverses, strict=True):
            values = inverse(values[order].contiguous(), given)
        found = values.t()
        return found if self._last_order is None else found[:, self._last_order]


class _Inverse:
    """Of one block: values (D, N) and context (C, N) to what the block makes them of, (D, N)."""

    def __init__(self, made: SortedMade, settings, dtype: torch.dtype):
        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array).to(dtype).contiguous()

        self.settings, self.known = settings, made.known.tolist()
        self.hidden = [(tensor(weight), tensor(bias)[:, None]) for weight, bias in made.hidden]
        self.final = tensor(made.final[0]), tensor(made.final[1])[..., None]
        self.context = tensor(made.context[0]), tensor(made.context[1])[:, None]

    def __call__(self, values: Tensor, context: Tensor) -> Tensor:
        found = torch.zeros_like(values)
        (weight, bias), *deeper = self.hidden
        given = bias + torch.relu(self.context[0] @ context + self.context[1])
        units = [given.new_zeros(len(bias), values.shape[1]) for _ in self.hidden]
        before = 0
        for feature, known in enumerate(self.known):
            if known > before:
                new = slice(before, known)
                units[0][new] = torch.relu(weight[new, :feature] @ found[:feature] + given[new])
                for below, above, (deep, its_bias) in zip(units, units[1:], deeper, strict=False):
                    above[new] = torch.relu(deep[new, :known] @ below[:known] + its_bias[new])
                before = known
            raw = self.final[0][feature, :, :known] @ units[-1][:known] + self.final[1][feature]
            row = slice(feature, feature + 1)
            found[row] = inverse_by_torch(values[row], raw, self.settings)[0]
        return found
