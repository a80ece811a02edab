"""The convolutional network of Mnih et al. 2015 (Nature 518, doi 10.1038/nature14236, Methods), and for small images
that of Young and Tian 2019 (MinAtar, arXiv 1903.03176), as the first layers of a policy that sees images: forward, and
back by hand as `backprop` does for the hidden layers after them.

Pixels are divided by 255; no statistics normalize them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simtoreal.policies.backprop import HiddenLayers, Trace, backward, forward, threshold_backward
from simtoreal.policies.images import Shape, check_image, is_channels_first, is_small
from simtoreal.policies.networks import mlp
from simtoreal.policies.recurrent import RecurrentLayers

FILTERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # of each layer: how many, their side and their stride [pixels]
SMALL_FILTERS = ((16, 3, 1),)
convolution_backward = torch.ops.aten.convolution_backward.default


class Convolutions(nn.Sequential):
    """Images as they are shown, uint8 [B, *shape], to features [B, f], channel by channel; a ReLU after each layer."""

    def __init__(self, shape: Shape) -> None:
        channels_first = is_channels_first(check_image(shape))
        channels, *sides = shape if channels_first else (shape[2], *shape[:2])
        layers: list[nn.Module] = []
        for filters, side, stride in SMALL_FILTERS if is_small(shape) else FILTERS:
            layers += [nn.Conv2d(channels, filters, side, stride), nn.ReLU()]
            channels, sides = filters, [(size - side) // stride + 1 for size in sides]
        super().__init__(*layers)
        self.channels_first = channels_first
        self.features = channels * sides[0] * sides[1]

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = super().forward(self.scaled(pixels))
        return features.flatten(1)

    def scaled(self, pixels: Tensor) -> Tensor:
        """float32 [B, C, H, W] in [0, 1], the channels of a pixel side by side in memory: on a CPU twice as fast."""
        if not self.channels_first:
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.to(torch.float32, memory_format=torch.channels_last) / 255.0

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The input of every layer and the output of the last, [B, c, h, w]. For where autograd is off."""
        maps = [self.scaled(pixels)]
        for layer in list(self)[::2]:
            maps.append(layer(maps[-1]).relu_())
        return maps

    def weight_gradients(self, maps: Sequence[Tensor], g: Tensor) -> list[Tensor]:
        """From the gradient of the features [B, f]: those of the weights, in the order of `parameters()`."""
        found: list[Tensor] = []
        g = g.view_as(maps[-1]).contiguous(memory_format=torch.channels_last)
        for i, layer in reversed(list(enumerate(list(self)[::2]))):
            assert isinstance(layer, nn.Conv2d)
            g = threshold_backward(g, maps[i + 1], 0)
            wanted = [i > 0, True, True]
            g, *of_layer = convolution_backward(
                g, maps[i], layer.weight, [layer.out_channels], layer.stride, (0, 0), (1, 1), False, (0, 0), 1, wanted
            )
            found[:0] = of_layer
        return found


def image_layers(
    shape: Shape, hidden: Sequence[int], activation: str, kind: type[nn.Sequential]
) -> OrderedDict[str, nn.Module]:
    """Convolutions for images of a shape, and after them hidden layers of widths `hidden`."""
    first = Convolutions(shape)
    return OrderedDict(convolutions=first, hidden=mlp([first.features, *hidden], activation, kind))


@dataclass
class ImageTrace(Trace):
    """And the maps of the convolutions: each one's input, and the output of the last."""

    maps: list[Tensor]


class ImageLayers(nn.Sequential):
    """Convolutions, then hidden layers: uint8 [B, *shape] -> [B, h]."""

    convolutions: Convolutions
    hidden: HiddenLayers

    def __init__(self, shape: Shape, hidden: Sequence[int], activation: str) -> None:
        super().__init__(image_layers(shape, hidden, activation, HiddenLayers))

    def trace(self, pixels: Tensor) -> ImageTrace:
        """Forward, as `HiddenLayers.trace`."""
        maps = self.convolutions.maps(pixels)
        after = forward(self.hidden, maps[-1].flatten(1))
        return ImageTrace(after.steps, after.output, maps)

    def weight_gradients(self, trace: Trace, g: Tensor) -> list[Tensor]:
        """Back, as `HiddenLayers.weight_gradients`."""
        assert isinstance(trace, ImageTrace)
        of_hidden, to_first = backward(self.hidden, trace, g)
        to_features = self.hidden.input_gradient(to_first)
        return [*self.convolutions.weight_gradients(trace.maps, to_features), *of_hidden]


Body = HiddenLayers | ImageLayers | RecurrentLayers
"""What a stochastic policy or a value has before its head."""
