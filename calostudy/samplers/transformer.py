"""The transformer over patches of a shower, with what is the same at every step done once.

Several showers go through it together, and come out with the same bits as alone.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from calostudy.networks.kept import OfConditions, OfTimes
from calostudy.networks.products import activation, by_products, product
from calostudy.networks.transformer import ShowerTransformer


class Fused:
    """The same function as a `ShowerTransformer`, to rounding.

    Where the tokens are is kept, what depends on the conditions alone for as long as these stay,
    and what depends on the time for all times that there are.
    """

    @torch.no_grad()
    def __init__(self, network: ShowerTransformer, precision: str):
        network = copy.deepcopy(network).to(getattr(torch, precision)).eval()
        self.network = network = by_products(network.requires_grad_(False))
        self.positions = network.positions()
        modulations = [part.modulate for part in (*network.blocks, network)]
        self.sizes = [len(each.weight) for each in modulations]
        self.weight = torch.cat([each.weight for each in modulations]).t().contiguous()
        self.bias = torch.cat([each.bias for each in modulations])
        self.of_times = OfTimes(network.of_time, self.positions)
        self.of_conditions = OfConditions(network.condition)

    @torch.no_grad()
    def __call__(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        given = activation(F.silu, self.of_times(time) + self.of_conditions(conditions))
        modulations = product(given, self.weight, self.bias).split(self.sizes, dim=1)
        return self.network.modulated(x, modulations, self.positions)
