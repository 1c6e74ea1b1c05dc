"""What generative adversarial networks share (Goodfellow et al., arXiv:1406.2661).

A generator makes showers of noise, a critic tells them from real ones; both are trained at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

ENERGY_SCORE = "energy_score"
"""What trainings log of `energy_score`, and choose their epoch by."""


class Adversaries(nn.Module):
    """A generator and its critic, which showers are made without."""

    training_only = ("critic",)

    def __init__(self, generator: nn.Module, critic: nn.Module):
        super().__init__()
        self.generator, self.critic = generator, critic


class Reversed(torch.autograd.Function):
    """The same numbers forwards, the gradient with the other sign backwards (Ganin & Lempitsky,
    arXiv:1409.7495): what lowers the critic's loss is to raise the generator's."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


def slope_error(
    score: Callable[[Tensor], Tensor],
    between: Tensor,
    of_showers: Callable[[Tensor], Tensor] = lambda square: square.sum(dim=1),
) -> Tensor:
    """Squared difference from 1 of the norm of the critic's gradient, (N,), at places between real
    and generated showers (Gulrajani et al., arXiv:1704.00028, Eq. 3).

    `of_showers` adds up the squares of a gradient in the shape of `between` for each shower.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        between = between.detach().requires_grad_()
        (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=differentiable)
    return ((of_showers(slope.square()) + 1e-12).sqrt() - 1.0).square()


def energy_score(real: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of each real shower (N, D), against two generated for the same conditions: (N,) (Gneiting &
    Raftery, J. Am. Stat. Assoc. 102 (2007) 359, Eq. 21). In expectation it is lowest where
    generated showers are distributed as real ones.

    >>> real, one, other = (torch.tensor([[float(x)]]) for x in (0, 3, 1))
    >>> energy_score(real, one, other)
    tensor([2.])
    """
    return (one - real).norm(dim=1) - 0.5 * (one - other).norm(dim=1)
