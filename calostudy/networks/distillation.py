"""Probability density distillation of an inverse autoregressive flow from a masked one.

The student is to undo what the teacher does to data (x-loss), the teacher what the student does to
noise (z-loss), block by block: all states between the blocks have to agree as well, and all spline
parameters (CaloFlow's student, arXiv:2110.11377). All losses are per sample, (N,).
"""

import torch
from nflows.flows import Flow
from nflows.transforms.permutations import Permutation
from torch import Tensor

from calostudy.networks.iaf import Trace, trace_to_data, trace_to_noise


def x_loss(student: Flow, teacher: Flow, values: Tensor, context: Tensor) -> Tensor:
    """How well the student undoes what the teacher does to values (N, D), given context (N, C)."""
    with torch.no_grad():
        given = trace_to_noise(teacher, values, context)
    return mismatch(trace_to_data(student, given.states[-1].t(), context), given)


def z_loss(own: Trace, teacher: Flow, context: Tensor) -> Tensor:
    """How well the teacher undoes what the student did to noise (`own`), given context (N, C)."""
    return mismatch(own, trace_to_noise(teacher, own.states[0].t(), context))


def divergence(own: Trace, teacher: Flow, context: Tensor) -> Tensor:
    """log q(x) - log p(x) of samples x of the student q, p the teacher, as z_loss: its mean is the
    Kullback-Leibler divergence. No gradients."""
    with torch.no_grad():
        given = trace_to_noise(teacher, own.states[0].t(), context)
        squares = [t.states[-1].square().sum(dim=0) for t in (given, own)]
        return 0.5 * (squares[0] - squares[1]) - own.logabsdet - given.logabsdet


def mismatch(student: Trace, teacher: Trace) -> Tensor:
    """Squared distance of two ways between the same data and noise.

    The states count twice, the spline parameters of each block once. (The authors add the states
    before and after each permutation, and the end point once more.)
    """

    def distance(own, given):
        return sum((a - b).square().sum(dim=0) for a, b in zip(own, given, strict=True))

    return 2.0 * distance(student.states, teacher.states) + distance(
        student.parameters, teacher.parameters
    )


def take_over(student: Flow, teacher: Flow, biases: bool) -> None:
    """Give the student the teacher's permutations and, if wanted, the biases of its splines."""
    steps = (flow._transform._transforms for flow in (student, teacher))
    for own, given in zip(*steps, strict=True):
        if isinstance(own, Permutation):
            own._permutation.copy_(given._permutation)
        elif biases:
            with torch.no_grad():
                own.autoregressive_net.final_layer.bias.copy_(
                    given.autoregressive_net.final_layer.bias
                )
