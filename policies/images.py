"""What an image is to a policy: its shape, and which of its axes are the channels. No torch: environments ask too."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, int, int]
LEAST_SIDE = 10  # [pixels]
SMALL_SIDE = 36  # [pixels] from which on the convolutions of Mnih et al. 2015 leave one or more
MOST_CHANNELS = 12


def is_channels_first(shape: Sequence[int]) -> bool:
    """Is an image of this shape [C, H, W]? Otherwise it is [H, W, C]: the channels are fewer than the pixels of a side.

    C are colours, frames of a stack, or both: what each one is, only the environment knows.
    """
    return shape[0] < shape[2]


def is_small(shape: Sequence[int]) -> bool:
    """Has an image of this shape too few pixels for the network of Mnih et al. 2015?"""
    return min(shape[1:] if is_channels_first(shape) else shape[:2]) < SMALL_SIDE


def check_image(shape: Sequence[int]) -> Shape:
    """`shape`, of an image that the convolutions take: [C, H, W] or [H, W, C]. Raises ValueError for any other."""
    if len(shape) != 3:
        raise ValueError(f"images need three axes, [C, H, W] or [H, W, C], got {list(shape)}")
    one, two, three = (int(size) for size in shape)
    channels, *sides = (one, two, three) if is_channels_first(shape) else (three, one, two)
    if min(sides) < LEAST_SIDE:
        raise ValueError(f"images need at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {sides[0]} x {sides[1]}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(f"images need from 1 to {MOST_CHANNELS} channels, got {list(shape)}")
    return one, two, three
