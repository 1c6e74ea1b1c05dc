"""Flows with splines that bend, and what goes into them."""

import numpy as np
import torch
from nflows.transforms.permutations import Permutation


def bent(flow, scale=1.0):
    """The flow, in evaluation; its splines bend the more, the larger `scale`."""
    with torch.no_grad():
        for step in flow._transform._transforms:
            if not isinstance(step, Permutation):
                step.autoregressive_net.final_layer.weight *= scale
    return flow.eval()


def noise_and_context(sizes, n, width=6.0):
    """Normal noise (n, features), many in the tails beyond 4, and conditions (n, context)."""
    random = np.random.default_rng(n)
    noise = width * random.normal(size=(n, sizes["features"]))
    return noise, random.normal(size=(n, sizes["context"]))
