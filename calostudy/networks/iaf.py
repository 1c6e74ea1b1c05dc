"""Inverse autoregressive flows with rational quadratic splines, built from nflows modules.

Data become noise in as many steps as there are features, noise becomes data in one pass: the fast
direction is the one that a masked autoregressive flow lacks (CaloFlow's student,
arXiv:2110.11377). Block k of such a flow takes what block k of a masked autoregressive flow gives
and has to predict the same spline parameters from it.
"""

from dataclasses import dataclass

from nflows.flows import Flow
from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform
from nflows.transforms.permutations import Permutation
from torch import Tensor

from calostudy.networks.flows import (
    autoregressive_steps,
    maf_flow,
    spline_parameters,
    spline_settings,
)
from calostudy.networks.spline import rational_quadratic_spline
from calostudy.networks.spline_inverse import inverse_rational_quadratic_spline


class InverseAutoregressiveSplines(MaskedPiecewiseRationalQuadraticAutoregressiveTransform):
    """A block whose splines depend on the noise side: `inverse` (noise to data) is one pass,
    `forward` (data to noise) one per feature.

    The spline itself runs as in the masked autoregressive block, forward from data to noise: equal
    parameters mean equal splines.
    """

    def forward(self, inputs, context=None):
        return super().inverse(inputs, context)

    def inverse(self, inputs, context=None):
        return super().forward(inputs, context)

    def _elementwise_forward(self, inputs, autoregressive_params):
        return self._elementwise(inputs, autoregressive_params, inverse=True)

    def _elementwise_inverse(self, inputs, autoregressive_params):
        return self._elementwise(inputs, autoregressive_params)


def iaf_flow(features, context, hidden, blocks, hidden_blocks, **options) -> Flow:
    """Inverse autoregressive flow; arguments and errors as for `flows.maf_flow`."""
    return maf_flow(
        features,
        context,
        hidden,
        blocks,
        hidden_blocks,
        kind=InverseAutoregressiveSplines,
        **options,
    )


def inverse_autoregressive_steps(flow):
    """The transforms of an inverse autoregressive flow from data to noise, checked as in
    `flows.autoregressive_steps`."""
    return autoregressive_steps(flow, InverseAutoregressiveSplines)


@dataclass(frozen=True)
class Trace:
    """A way through a flow, in columns.

    states: blocks + 1 of (features, samples), in the order from data to noise: the data, then what
    each block has on its noise side; parameters: of each block, what its network gives (features *
    (3 bins - 1), samples); logabsdet (samples,): of the way as it was walked.
    """

    states: list[Tensor]
    parameters: list[Tensor]
    logabsdet: Tensor


def trace_to_noise(flow, inputs, context) -> Trace:
    """The way of inputs (N, features) through a masked autoregressive flow to noise, given context
    (N, C); differentiable."""
    columns, context = inputs.t().contiguous(), context.t().contiguous()
    states, parameters, total = [columns], [], inputs.new_zeros(len(inputs))
    for step in autoregressive_steps(flow):
        if isinstance(step, Permutation):
            columns = columns.index_select(0, step._permutation)
            continue
        parameters.append(spline_parameters(step.autoregressive_net, columns, context))
        columns, logs = rational_quadratic_spline(columns, parameters[-1], spline_settings(step))
        states.append(columns)
        total = total + logs
    return Trace(states, parameters, total)


def trace_to_data(flow, noise, context) -> Trace:
    """The way of noise (N, features) through an inverse autoregressive flow to data, given context
    (N, C); differentiable but for its `logabsdet`.

    The flow must not permute behind its last block, as CaloFlow's flow-II does not.
    """
    columns, context = noise.t().contiguous(), context.t().contiguous()
    states, parameters, total = [columns], [], noise.new_zeros(len(noise))
    for step in reversed(inverse_autoregressive_steps(flow)):
        if isinstance(step, Permutation):
            states[-1] = columns = columns.index_select(0, step._inverse_permutation)
            continue
        parameters.append(spline_parameters(step.autoregressive_net, columns, context))
        columns, logs = inverse_rational_quadratic_spline(
            columns, parameters[-1], spline_settings(step)
        )
        states.append(columns)
        total = total + logs
    return Trace(states[::-1], parameters[::-1], total)
