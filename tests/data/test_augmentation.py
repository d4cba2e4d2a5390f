"""Random crops: where they are, how often, and that they are those of an image with repeated edges."""

import numpy as np
import pytest
import torch

from genpolicy.data.augmentation import draw_crops, random_crop


def test_crops_are_those_of_an_image_with_repeated_edges() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (25, 5, 4, 6), generator=generator, dtype=torch.uint8)
    corners = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    cropped = random_crop(images, corners, padding=2)
    assert cropped.dtype == torch.uint8
    for image, (row, column), found in zip(images.numpy(), corners.tolist(), cropped.numpy(), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        assert np.array_equal(found, padded[row : row + 5, column : column + 4])
    assert torch.equal(random_crop(images, torch.full((25, 2), 2), padding=2), images)


def test_corners_are_uniform() -> None:
    corners = draw_crops(70_000, torch.Generator().manual_seed(0), padding=3, probability=1.0)
    for axis in range(2):
        counts = torch.bincount(corners[:, axis], minlength=7)
        assert counts.shape == (7,)
        # A share of 1/7 of 70000 draws has a standard deviation of 93.
        assert (counts - 10_000).abs().max() < 4 * 93
    correlation = torch.corrcoef(corners.double().T)[0, 1]
    assert abs(correlation) < 4 / 70_000**0.5


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_share_of_the_batches_is_left_as_it_is(probability: float) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [draw_crops(20, generator, padding=3, probability=probability) for _ in range(400)]
    moved = np.array([bool((batch != 3).any()) for batch in batches])
    # Within four standard deviations, 0.025 each; an augmented batch that stays where it is has probability 49^-20.
    assert abs(moved.mean() - probability) <= 4 * np.sqrt(probability * (1 - probability) / 400)


def test_the_same_generator_draws_the_same_crops() -> None:
    first, second = (draw_crops(9, torch.Generator().manual_seed(5), padding=3, probability=0.9) for _ in range(2))
    assert torch.equal(first, second)
