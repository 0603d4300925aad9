"""The nets: their shapes and sizes as the papers have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import metafunc as mf


@pytest.mark.parametrize(
    ("options", "shape", "parameters"),
    [
        # 3x3 filters: 3 to 32, then 32 to 32 three times, each with a bias and two numbers of the norm; 5x5x32 features.
        ({"ways": 5}, (3, 84), 3 * 32 * 9 + 3 * 32 * 32 * 9 + 4 * 3 * 32 + 800 * 5 + 5),
        # Strides and an average: 64 features.
        (
            {"ways": 20, "channels": 1, "width": 64, "side": 28, "shrink": "stride"},
            (1, 28),
            64 * 9 + 3 * 64 * 64 * 9 + 4 * 3 * 64 + 64 * 20 + 20,
        ),
        ({"ways": 2, "channels": 2, "width": 4, "side": 9, "blocks": 3}, (2, 9), 72 + 288 + 36 + 8 + 2),
    ],
)
def test_shapes_and_sizes(options: dict[str, Any], shape: tuple[int, int], parameters: int) -> None:
    net = mf.nets.conv4(**options)
    assert net(torch.zeros(3, shape[0], shape[1], shape[1])).shape == (3, options["ways"])
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert not list(net.buffers())


def test_a_set_of_images_is_normalised_by_its_own_statistics() -> None:
    """So that brightness and contrast of all images together do not matter, up to the norm's epsilon."""
    torch.manual_seed(0)
    net, images = mf.nets.conv4(3, channels=1, width=4, side=16), torch.randn(6, 1, 16, 16)
    first = net[0]
    assert isinstance(first, nn.Conv2d)
    first.padding = (0, 0)  # the frame of zeros would not be moved with the images
    images = torch.nn.functional.pad(images, (1, 1, 1, 1))
    torch.testing.assert_close(net(images), net(3 * images + 2), rtol=0, atol=1e-3)
    assert not torch.allclose(net(images)[:1], net(images[:1]), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ways": 0}, "ways: expected an integer of at least 1, got 0"),
        ({"ways": 5, "width": 1.5}, "width: expected an integer of at least 1, got float 1.5"),
        ({"ways": 5, "side": 15}, "side: expected at least 16 for 4 poolings, got 15"),
        ({"ways": 5, "shrink": "max"}, "shrink: expected 'pool' or 'stride', got 'max'"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        mf.nets.conv4(**options)
