"""A masked autoregressive flow of images given other images and numbers, which a network embeds."""

import torch
from torch import Tensor, nn

from calostudy.networks.flows import log_prob, maf_flow


class MaskedImageFlow(nn.Module):
    """A density of images (1, H, W) given a context (C, H, W); the base is standard normal.

    shape: (H, W); context: number of channels C, of which only the first `images` differ from pixel
    to pixel; width, embedding: of the network that embeds the context; options: of
    `calostudy.networks.flows.maf_flow`.
    """

    def __init__(self, shape, context: int, images: int, width: int, embedding: int, **options):
        super().__init__()
        pixels = shape[0] * shape[1]
        self.shape, self.images, self.noise_shape = tuple(shape), images, (pixels,)
        self.embedding = nn.Sequential(
            nn.Linear(images * pixels + context - images, width),
            nn.LeakyReLU(),
            nn.Linear(width, embedding),
        )
        self.flow = maf_flow(pixels, embedding, **options)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("deviation", torch.ones(pixels))

    def embedded(self, context: Tensor) -> Tensor:
        """The condition (B, embedding) of a context (B, C, H, W)."""
        numbers = context[:, self.images :, 0, 0]
        return self.embedding(torch.cat([context[:, : self.images].flatten(1), numbers], dim=1))

    def log_prob(self, images: Tensor, context: Tensor) -> Tensor:
        """Log density of images (B, 1, H, W) given context (B, C, H, W): (B,), differentiable."""
        values = (images.flatten(1) - self.mean) / self.deviation
        return log_prob(self.flow, values, self.embedded(context)) - self.deviation.log().sum()

    def unstandardised(self, values: Tensor) -> Tensor:
        """Images (B, 1, H, W) of the flow's numbers (B, H W)."""
        return (values * self.deviation + self.mean).view(-1, 1, *self.shape)

    @torch.no_grad()
    def initialise(self, images: Tensor, context: Tensor) -> None:
        """Standardise each pixel by its mean and standard deviation in these images."""
        deviation, mean = torch.std_mean(images.flatten(1), dim=0)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp_min(1e-3))
