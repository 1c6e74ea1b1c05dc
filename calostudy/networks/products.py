"""Products of matrices that give a shower the same bits in every batch.

Libraries round the rows of a product differently among few rows than among many. Inside of
`alike` each shower is a product of its own, all of them in one call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ALIKE = ContextVar("alike", default=False)


@contextmanager
def alike() -> Iterator[None]:
    """Inside, and on one thread, showers have the same bits in every batch."""
    token = _ALIKE.set(True)
    try:
        yield
    finally:
        _ALIKE.reset(token)


ALIGNED = 16
"""Numbers in a line of memory."""


def product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, ..., I) times a matrix (I, O), and a bias (O,).

    >>> with alike():
    ...     x, matrix = torch.randn(9, 100), torch.randn(100, 40)
    ...     torch.equal(product(x, matrix)[4:5], product(x[4:5], matrix))
    True
    """
    if not _ALIKE.get():
        return F.linear(x, matrix.t(), bias)
    return _of_each(x, *_aligned(matrix, bias), matrix.shape[1])


def _aligned(matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both with zeros to the end of a line of memory: lines of numbers that begin anywhere in a
    line of memory are summed otherwise."""
    beyond = -matrix.shape[1] % ALIGNED
    if not beyond:
        return matrix, bias
    return F.pad(matrix, (0, beyond)), None if bias is None else F.pad(bias, (0, beyond))


def _of_each(x: Tensor, matrix: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """`product` with what is `_aligned`."""
    inputs, count = x.shape[-1], len(x)
    rows = x if x.dim() == 3 else x.reshape(count, -1, inputs)
    if inputs % ALIGNED:
        rows = F.pad(rows, (0, -inputs % ALIGNED))[..., :inputs]
    many = matrix.expand(count, -1, -1)
    found = torch.bmm(rows, many) if bias is None else torch.baddbmm(bias, rows, many)
    found = found if matrix.shape[1] == outputs else found[..., :outputs]
    return found if x.dim() == 3 else found.reshape(*x.shape[:-1], outputs)


class Linear(nn.Module):
    """A linear layer by `product`, of the weights that another one has now."""

    def __init__(self, other: nn.Linear):
        super().__init__()
        self.weight, self.bias = other.weight, other.bias
        with torch.no_grad():
            self.aligned = _aligned(other.weight.t().contiguous(), other.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not _ALIKE.get():
            return F.linear(x, self.weight, self.bias)
        return _of_each(x, *self.aligned, len(self.weight))


class Activation(nn.Module):
    """A module that is a function of single numbers, by `activation`."""

    def __init__(self, other: nn.Module):
        super().__init__()
        self.function = other

    def forward(self, x: Tensor) -> Tensor:
        return activation(self.function, x)


STAND_INS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.SiLU: Activation}
"""What stands in for a module inside of `by_products`."""


def by_products(network: nn.Module) -> nn.Module:
    """The network, whose linear layers are by `product` and functions of single numbers by
    `activation` from now on."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) in STAND_INS:
                setattr(module, name, STAND_INS[type(child)](child))
    return network


VECTOR = 32
"""A multiple of the numbers that the loops of torch take at once on any processor."""


def each(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """function(*rows) of rows (B, ...), inside of `alike` shower by shower: a function of single
    numbers may round the last ones of a tensor otherwise than those before."""
    if not _ALIKE.get() or len(rows[0]) == 1:
        return function(*rows)
    return torch.cat([function(*one) for one in zip(*(r.split(1) for r in rows), strict=True)])


def activation(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) of each number of x (B, ...), inside of `alike` as `each` where it matters."""
    return function(x) if x[0].numel() % VECTOR == 0 else each(function, x)
