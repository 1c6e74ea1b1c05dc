"""Masked linear layers that skip what their mask removes.

The masks of a MADE with ordered hidden units are staircases: each group of output rows sees a
prefix of the input columns. Multiplying prefix by prefix halves the arithmetic of forward and
backward, and spares the copy `weight * mask`; only the steps themselves need the mask.
"""

from itertools import pairwise
from weakref import WeakKeyDictionary

import torch

GROUPS = 8
# Below this many weights one full product is faster than several small ones.
SMALL = 1 << 18

_plans = WeakKeyDictionary()


def staircase(mask, groups=GROUPS):
    """Row groups of a 0/1 mask: list of (rows, full, mixed), where the group's weights are all
    kept in columns `full`, masked one by one in columns `mixed`, all removed beyond."""
    bounds = torch.linspace(0, len(mask), min(groups, len(mask)) + 1).long().tolist()
    plan = []
    for start, stop in pairwise(bounds):
        kept = mask[start:stop] != 0
        removed_somewhere = (~kept.all(dim=0)).nonzero()
        kept_somewhere = kept.any(dim=0).nonzero()
        full = int(removed_somewhere[0]) if len(removed_somewhere) else mask.shape[1]
        top = int(kept_somewhere[-1]) + 1 if len(kept_somewhere) else 0
        plan.append((slice(start, stop), slice(0, full), slice(full, max(top, full))))
    return plan


def _plan(layer):
    """The staircase of a layer, found again whenever its mask was replaced or overwritten."""
    key = (id(layer.mask), layer.mask._version)
    known, plan = _plans.get(layer, (None, None))
    if known != key:
        plan = staircase(layer.mask)
        _plans[layer] = (key, plan)
    return plan


class _StaircaseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, columns, weight, bias, mask, plan):
        ctx.plan = plan
        ctx.save_for_backward(columns, weight, mask)
        output = columns.new_empty(len(weight), columns.shape[1])
        for rows, full, mixed in plan:
            part = output[rows]
            torch.addmm(bias[rows, None], weight[rows, full], columns[full], out=part)
            if mixed.stop > mixed.start:
                part.addmm_(weight[rows, mixed] * mask[rows, mixed], columns[mixed])
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        columns, weight, mask = ctx.saved_tensors
        of_columns, of_weight = ctx.needs_input_grad[:2]
        g_columns = torch.zeros_like(columns) if of_columns else None
        g_weight = torch.zeros_like(weight) if of_weight else None
        for rows, full, mixed in ctx.plan:
            part = gradient[rows]
            if of_weight:
                torch.mm(part, columns[full].t(), out=g_weight[rows, full])
            if of_columns:
                g_columns[full].addmm_(weight[rows, full].t(), part)
            if mixed.stop > mixed.start:
                kept = mask[rows, mixed]
                if of_weight:
                    torch.mul(part @ columns[mixed].t(), kept, out=g_weight[rows, mixed])
                if of_columns:
                    g_columns[mixed].addmm_((weight[rows, mixed] * kept).t(), part)
        return g_columns, g_weight, gradient.sum(dim=1), None, None


def masked_linear(layer, columns):
    """nflows MaskedLinear on columns: (inputs, samples) -> (outputs, samples), differentiable
    once."""
    if layer.weight.numel() < SMALL:
        return torch.addmm(layer.bias.unsqueeze(1), layer.weight * layer.mask, columns)
    return _StaircaseLinear.apply(columns, layer.weight, layer.bias, layer.mask, _plan(layer))
