"""The small convolutional nets of the few-shot literature."""

from __future__ import annotations

from typing import Literal

from torch import nn

from metafunc import errors, options


def conv4(
    ways: int,
    *,
    channels: int = 3,
    width: int = 32,
    side: int = 84,
    shrink: Literal["pool", "stride"] = "pool",
    blocks: int = 4,
) -> nn.Sequential:
    """Blocks of 3x3 convolution, batch normalisation, ReLU and shrinking by two, and a linear layer on top.

    The norms have no running statistics: a set of images is normalised by its own, in the inner loop and out of it.

    Source:
        Vinyals et al. (2016) and Finn et al. (2017). For miniImageNet and tieredImageNet, ``conv4(5)`` is the net of
        BinomMAML, appendix C.2. For Omniglot, ``conv4(5, channels=1, width=64, side=28, shrink="stride")`` is that of
        MAML, which iMAML's Table 2 uses too; there the last feature maps are averaged, not flattened.

    Args:
        ways: Classes to tell apart.
        channels: Of the images.
        width: Channels of each block, 32 or 64 in the papers.
        side: Height and width of the images.
        shrink: By max pooling, before which an odd row is dropped, or by the stride of the convolution.
        blocks: How many blocks.

    Shapes:
        From [n, channels, side, side] to [n, ways].

    Raises:
        ValueError: If a number is no positive integer, or the images are too small for so many blocks.
    """
    sizes = {"ways": ways, "channels": channels, "width": width, "side": side, "blocks": blocks}
    for name, value in sizes.items():
        options.integer(name, value, 4)
    options.choice("shrink", shrink, "pool", "stride")
    if shrink == "pool" and side < 2**blocks:
        raise errors.out_of_range(
            "side", side, f"at least {2**blocks} for {blocks} poolings", "or ask for fewer blocks"
        )
    layers: list[nn.Module] = []
    pooled = shrink == "pool"
    for inputs in [channels, *[width] * (blocks - 1)]:
        layers += [
            nn.Conv2d(inputs, width, 3, stride=1 if pooled else 2, padding=1),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(2)] if pooled else []
    if not pooled:
        layers.append(nn.AdaptiveAvgPool2d(1))
    features = width * (side // 2**blocks) ** 2 if pooled else width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, ways))
