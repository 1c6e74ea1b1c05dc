"""L2LFlows as it was first: masked autoregressive flows, layer after layer.

Diefenbacher et al., arXiv:2302.11594. What `calostudy.models.l2lflows` says of the layer energies,
the conditions and the order of sampling holds here, too; the cells of a layer are described by a
masked autoregressive flow with rational-quadratic splines, and a network embeds the layers before.

There is size `embedded` only, one flow for all layers of dataset 2. The structure of the published
networks (556,526,578 parameters for dataset 3 in arXiv:2410.21611) is not public, so that no size
`paper` can claim their number.
"""

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from calostudy.models.caloflow import SAMPLERS
from calostudy.models.l2lflows import BEFORE, ENERGIES, L2LFlows
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.flows import begin_at_identity
from calostudy.networks.masked_image import MaskedImageFlow
from calostudy.samplers.glow import Inverse

STRUCTURE = {
    "width": 64,
    "embedding": 32,
    "blocks": 4,
    "hidden": 48,
    "hidden_blocks": 1,
    "tail_bound": 6.0,
    "degrees": "spread",
}
"""Arguments of `MaskedImageFlow`."""

RECIPE = TrainingRecipe(
    25, 16, 1e-3, "onecycle", {"rise": 0.3, "start": 10, "end": 1e2}, validation=0.1, clip=1e4
)


def _with(make: Callable) -> Callable[[MaskedImageFlow, str], Inverse]:
    """The inverse of images by a sampler of their masked autoregressive flow."""

    def of_images(images: MaskedImageFlow, precision: str) -> Inverse:
        dtype = getattr(torch, precision)
        inverse, images = make(images.flow, precision), copy.deepcopy(images).to(dtype).eval()

        @torch.no_grad()
        def found(noise, context):
            values = inverse(noise.numpy(force=True), images.embedded(context).numpy(force=True))
            return images.unstandardised(torch.as_tensor(values))

        return found

    return of_images


class L2LFlowsMAF(L2LFlows):
    """L2LFlows with masked autoregressive flows on CaloChallenge dataset 2."""

    name: ClassVar[str] = "l2lflows-maf"
    datasets: ClassVar[tuple[str, ...]] = ("ds2",)
    sizes: ClassVar[tuple[str, ...]] = ("embedded",)
    samplers: ClassVar[dict[str, tuple[Callable, Callable]]] = {
        name: (make, _with(make)) for name, make in SAMPLERS.items()
    }

    @property
    def storage(self) -> torch.dtype:
        return torch.int8

    def recipe(self, network: str) -> TrainingRecipe:
        return super().recipe(network) if network == ENERGIES else RECIPE

    def image_flow(self, shape, context: int) -> nn.Module:
        # Of the context, the layers before and the average one are images.
        flow = MaskedImageFlow(shape, context, BEFORE + 1, seed=self.seed, **STRUCTURE)
        begin_at_identity(flow.flow)
        return flow
