"""What becomes of drawn images before a task is made of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metafunc.data.tasks import refusal

Augmentation = Callable[[Tensor], Tensor]
"""Images [images, channels, height, width], floats from 0 to 1 -> the same shape."""

Normalization = tuple[Tensor | Sequence[float] | float, Tensor | Sequence[float] | float]
"""The mean and the standard deviation, each a number or one number for each channel."""


def augmented(augment: Augmentation, images: Tensor, generator: torch.Generator) -> Tensor:
    """The images as `augment` changes them.

    Augmentations draw from torch's own chance. It is seeded from `generator` for the call, and then put back.

    Raises:
        ValueError: the shape is no longer the same.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device, dtype=torch.int64)
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which seeds the devices too that are not put back.
        torch.default_generator.manual_seed(int(seed))
        if images.is_cuda:
            with torch.cuda.device(images.device):
                torch.cuda.manual_seed(int(seed))
        changed = augment(images)
    if changed.shape != images.shape:
        raise refusal(
            "augment",
            f"images of the shape they had, {list(images.shape)}",
            list(changed.shape),
            "crop to the size of the images, and keep every image",
        )
    return changed.to(images.dtype)


def check_normalize(normalize: Normalization, channels: int) -> None:
    """Raises unless this is (mean, standard deviation), finite and one or `channels` numbers each."""
    if len(normalize) != 2:
        raise refusal(
            "normalize", "(mean, standard deviation)", f"{len(normalize)} things", "give both, and no more"
        )
    for name, part in zip(("mean", "standard deviation"), normalize, strict=True):
        values = torch.as_tensor(part, dtype=torch.float64)
        if values.ndim > 1 or values.numel() not in (1, channels):
            raise refusal(
                f"{name} of normalize",
                f"a number, or one for each of the {channels} channels",
                f"shape {list(values.shape)}",
                "pass dataset.statistics(), say",
            )
        if not bool(values.isfinite().all()) or (name != "mean" and float(values.min()) <= 0):
            raise refusal(
                f"{name} of normalize",
                "finite numbers" if name == "mean" else "finite numbers above 0",
                values.tolist(),
                "leave out images without contrast, and compute it again",
            )
