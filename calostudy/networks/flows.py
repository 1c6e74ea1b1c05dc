"""Masked autoregressive flows with rational quadratic splines, built from nflows modules.

`maf_flow` builds the flows of CaloFlow (arXiv:2106.05285, arXiv:2210.14245) with exactly the
published numbers of parameters. Weights, masks and permutations are nflows modules throughout;
`log_prob` evaluates the same density faster, and `calostudy.samplers.maf` inverts it faster.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import (
    CompositeTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
)
from nflows.transforms.made import MaskedFeedforwardBlock
from nflows.transforms.permutations import Permutation

from calostudy.errors import UsageError
from calostudy.networks.masked import masked_linear
from calostudy.networks.spline import SplineSettings, rational_quadratic_spline

DEGREES = ("sequential", "spread", "conditioned")
CONDITIONED = 8
"""One in so many hidden units sees the context alone, where degrees are "conditioned"."""
BINS = 8
"""Of the splines of CaloFlow and what follows it."""


def permutations_within_layers(layer_sizes, count, seed=0) -> list[np.ndarray]:
    """CaloFlow's permutations between blocks: after block i even the order is reversed inside
    each calorimeter layer, after block i odd it is a fixed random one inside each layer; the
    layers keep their order. `count` arrays of sum(layer_sizes) indices."""
    random = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(layer_sizes)[:-1]])
    return [
        np.concatenate(
            [
                start + (random.permutation(size) if i % 2 else np.arange(size)[::-1])
                for start, size in zip(starts, layer_sizes, strict=True)
            ]
        )
        for i in range(count)
    ]


def random_permutations(features, count, seed=0) -> list[np.ndarray]:
    """`count` fixed random permutations of all features."""
    random = np.random.default_rng(seed)
    return [random.permutation(features) for _ in range(count)]


def maf_flow(
    features,
    context,
    hidden,
    blocks,
    hidden_blocks,
    layer_sizes=None,
    dropout=0.0,
    bins=BINS,
    tail_bound=14.0,
    minimum=1e-6,
    seed=0,
    degrees="sequential",
    kind=MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
) -> Flow:
    """Masked autoregressive flow on `features` numbers, conditioned on `context` numbers.

    blocks: autoregressive blocks, each one MADE of `hidden` units in 1 + `hidden_blocks` hidden
    layers, which predicts a spline of `bins` bins on [-tail_bound, tail_bound] per feature
    (`minimum`: smallest bin width, bin height and derivative).
    layer_sizes: cells per calorimeter layer, for `permutations_within_layers` after each block
    but the last (CaloFlow's flow-II); None: a random permutation of all features after every
    block (flow-I).
    degrees: "sequential" numbers the hidden units as nflows and the published models do, 1, 2, 3,
    ...: with hidden < features - 1 no block looks at features beyond the first `hidden`.
    "spread" spaces the degrees evenly over all features, which a small network needs.
    "conditioned" does so after a few units of degree 0, which look at the context alone and which
    every feature sees: without them the first feature of a block is not conditioned on anything.
    seed: of weights and permutations.
    kind: class of the blocks (`calostudy.networks.iaf` has another).

    Raises UsageError on sizes that do not fit together.
    """
    if layer_sizes is not None and sum(layer_sizes) != features:
        raise UsageError(
            f"layer_sizes {tuple(layer_sizes)} sum to {sum(layer_sizes)}, expected {features}"
        )
    if degrees not in DEGREES:
        raise UsageError(f"degrees {degrees!r} unknown, expected one of {', '.join(DEGREES)}")
    permutations = (
        random_permutations(features, blocks, seed)
        if layer_sizes is None
        else permutations_within_layers(layer_sizes, blocks - 1, seed)
    )
    transforms = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i in range(blocks):
            transform = kind(
                features=features,
                hidden_features=hidden,
                context_features=context,
                num_bins=bins,
                tails="linear",
                tail_bound=tail_bound,
                num_blocks=hidden_blocks,
                use_residual_blocks=False,
                random_mask=False,
                activation=F.relu,
                dropout_probability=dropout,
                use_batch_norm=False,
                min_bin_width=minimum,
                min_bin_height=minimum,
                min_derivative=minimum,
            )
            if degrees != "sequential":
                alone = max(1, hidden // CONDITIONED) if degrees == "conditioned" else 0
                _spread_degrees(transform.autoregressive_net, alone)
            transforms.append(transform)
            if i < len(permutations):
                transforms.append(Permutation(torch.from_numpy(permutations[i].copy())))
    return Flow(CompositeTransform(transforms), StandardNormal([features]))


def _spread_degrees(made, alone):
    """Renumber the hidden units of a MADE evenly over 1 ... features - 1 (masks included), but
    for the first `alone`, which get 0."""
    features, hidden = made.initial_layer.in_features, made.initial_layer.out_features - alone
    degrees = 1 + torch.arange(hidden) * max(1, features - 1) // hidden
    degrees = torch.cat([degrees.new_zeros(alone), degrees])
    inputs = torch.arange(1, features + 1)
    previous = inputs
    for layer in [made.initial_layer, *(block.linear for block in made.blocks)]:
        layer.degrees = degrees
        layer.mask = (degrees[:, None] >= previous).to(layer.mask)
        previous = degrees
    for block in made.blocks:
        block.degrees = degrees
    made.final_layer.mask = (made.final_layer.degrees[:, None] > previous).to(layer.mask)


def begin_at_identity(flow: Flow) -> None:
    """Make the splines of a fresh flow almost the identity: equal bins, slope 1 at the knots."""
    for step in flow._transform._transforms:
        if isinstance(step, Permutation):
            continue
        final, spline = step.autoregressive_net.final_layer, spline_settings(step)
        with torch.no_grad():
            final.weight.mul_(0.1)
            final.bias.zero_()
            final.bias.view(-1, spline.parameters)[:, 2 * spline.bins :] = spline.edge


def autoregressive_steps(flow, kind=MaskedPiecewiseRationalQuadraticAutoregressiveTransform):
    """The transforms of a flow from data to noise, checked: a list of nflows `Permutation` and of
    blocks of class `kind`.

    Raises UsageError where the flow holds anything that the fast paths do not know.
    """
    steps = list(flow._transform._transforms)
    for step in steps:
        if isinstance(step, Permutation):
            known = step._dim == 1
        elif type(step) is kind:
            made = step.autoregressive_net
            known = (
                step.tails == "linear"
                and made.activation in (F.relu, torch.relu)
                # nflows would divide widths and heights by sqrt(hidden) if this attribute existed
                and not hasattr(made, "hidden_features")
                and all(
                    isinstance(block, MaskedFeedforwardBlock)
                    and block.batch_norm is None
                    and block.activation in (F.relu, torch.relu)
                    for block in made.blocks
                )
            )
        else:
            known = False
        if not known:
            raise UsageError(
                f"{type(step).__name__} is not a transform that the fast flow evaluation knows; "
                f"expected nflows permutations and feed-forward {kind.__name__} with linear tails "
                "and ReLU"
            )
    return steps


def spline_settings(transform) -> SplineSettings:
    """Spline settings of an nflows RQS transform."""
    return SplineSettings(
        bins=transform.num_bins,
        tail_bound=float(transform.tail_bound),
        min_bin_width=transform.min_bin_width,
        min_bin_height=transform.min_bin_height,
        min_derivative=transform.min_derivative,
    )


def spline_parameters(made, columns, context):
    """MADE on columns: (features, samples), (context, samples) -> (outputs, samples)."""
    hidden = masked_linear(made.initial_layer, columns)
    if context is not None:
        layer = made.context_layer
        hidden = hidden + torch.relu(torch.addmm(layer.bias.unsqueeze(1), layer.weight, context))
    hidden = torch.relu(hidden)
    for block in made.blocks:
        hidden = block.dropout(torch.relu(masked_linear(block.linear, hidden)))
    return masked_linear(made.final_layer, hidden)


def to_noise(flow, inputs, context=None):
    """Data to noise with the weights of `flow`: inputs (N, features), context (N, C) ->
    noise (N, features), logabsdet (N,); the function of nflows' `transform`, differentiable."""
    columns = inputs.t().contiguous()
    context = None if context is None else flow._embedding_net(context).t().contiguous()
    logabsdet = inputs.new_zeros(len(inputs))
    for step in autoregressive_steps(flow):
        if isinstance(step, Permutation):
            columns = columns.index_select(0, step._permutation)
            continue
        parameters = spline_parameters(step.autoregressive_net, columns, context)
        columns, logs = rational_quadratic_spline(columns, parameters, spline_settings(step))
        logabsdet = logabsdet + logs
    return columns.t(), logabsdet


def log_prob(flow, inputs, context=None):
    """Log density of inputs (N, features) given context (N, C): (N,), differentiable.

    Equal to nflows' `flow.log_prob(inputs, context)`, several times faster on a CPU.
    """
    noise, logabsdet = to_noise(flow, inputs, context)
    features = inputs.shape[1]
    normal = -0.5 * noise.square().sum(dim=1) - 0.5 * features * math.log(2.0 * math.pi)
    return normal + logabsdet
