"""Augmentation of image observations, on the device of the batch."""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def draw_crops(n: int, generator: torch.Generator, *, padding: int, probability: float) -> Int64[Tensor, "n 2"]:
    """Draw where to crop each image of a batch: uniform, or with 1 - `probability` the middle for all of them.

    Args:
        n: images.
        generator: the source of randomness; the result is on its device.
        padding: P, by how many pixels images are moved at most.
        probability: of an augmented batch.

    Returns:
        The row and column, from 0 to 2 P, of each crop in its padded image; (P, P) leaves an image as it is.
    """
    device = generator.device
    corners = torch.randint(2 * padding + 1, (n, 2), generator=generator, device=device)
    augment = torch.rand((), generator=generator, device=device) < probability
    return torch.where(augment, corners, padding)


def random_crop(
    images: Shaped[Tensor, "B H W C"], corners: Int64[Tensor, "B 2"], *, padding: int
) -> Shaped[Tensor, "B H W C"]:
    """Move images by up to P pixels: pad them by repeating their edges, crop to the old size (DrQ, arXiv:2004.13649).

    Args:
        images: of any type; all channels, frames of a stack included, move together.
        corners: the crops' first rows and columns, from `draw_crops`.
        padding: P.
    """
    rows, columns = (
        # Repeating an edge is reading it again: the index stays within the image.
        (torch.arange(size, device=images.device) + corners[:, axis, None] - padding).clamp(0, size - 1)
        for axis, size in enumerate(images.shape[1:3])
    )
    index = torch.arange(len(images), device=images.device)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
