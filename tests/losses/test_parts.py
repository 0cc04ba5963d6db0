import math

import pytest
import torch

from razh.losses import parts


def test_orthogonality_by_hand():
    orthogonal = torch.tensor([[[2.0, 0.0], [0.0, 0.5]]])
    same = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]])
    slanted = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert parts.orthogonality_loss(orthogonal).item() == pytest.approx(0, abs=1e-6)
    assert parts.orthogonality_loss(same).item() == pytest.approx(1, abs=1e-6)
    assert parts.orthogonality_loss(slanted).item() == pytest.approx(0.5, abs=1e-6)
    assert parts.orthogonality_loss(torch.cat([orthogonal, same])).item() == pytest.approx(0.5, abs=1e-6)
    assert parts.orthogonality_loss(torch.randn(3, 1, 4)).item() == pytest.approx(0, abs=1e-6)  # one part only


def test_presence_by_hand():
    """Two parts and a background that should have half: the prior is (1/4, 1/4, 1/2)."""
    assignment = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    assert parts.presence_loss(assignment).item() == pytest.approx(0, abs=1e-4)
    assignment = torch.tensor(
        [[[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]], [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]]
    )  # mean 1/2 1/4 1/4
    expected = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    assert parts.presence_loss(assignment).item() == pytest.approx(expected, abs=1e-4)


def test_presence_wants_the_share_of_the_background_that_is_asked():
    fair = torch.tensor([0.1, 0.1, 0.8]).expand(1, 5, 3)
    assert parts.presence_loss(fair, 0.8).item() == pytest.approx(0, abs=1e-4)
    assert parts.presence_loss(fair, 0.5) > 0.1
    assert parts.presence_loss(torch.tensor([0.5, 0.5, 0.0]).expand(1, 5, 3), 0.0).item() == pytest.approx(0, abs=1e-4)
    assert parts.presence_loss(torch.tensor([0.0, 0.0, 1.0]).expand(1, 5, 3), 1.0).item() == pytest.approx(0, abs=1e-4)


def test_presence_falls_as_a_slot_appears():
    losses = []
    for strength in (0.0, 0.1, 0.5, 0.9):
        assignment = torch.zeros(2, 4, 3)
        assignment[..., 0] = 1 - strength
        assignment[..., 1:] = strength / 2
        losses.append(float(parts.presence_loss(assignment)))
    assert losses[0] > losses[1] > losses[2]


def test_background_by_hand():
    """A grid of 3 x 4 has a rim of ten patches and two in the middle, which do not count."""
    assignment = torch.full((1, 12, 3), 0.25)
    assignment[..., -1] = 0.5
    assignment[0, [5, 6]] = torch.tensor([1.0, 0.0, 0.0])
    assert parts.background_loss(assignment, (3, 4)).item() == pytest.approx(math.log(2), abs=1e-3)
    assignment[0, 3, -1] = 0.125
    assert parts.background_loss(assignment, (3, 4)).item() == pytest.approx(math.log(2) * (1 + 2 / 10), abs=1e-3)


def test_background_is_zero_where_the_whole_rim_is_background():
    assignment = torch.rand(2, 12, 3)
    for patch in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11):
        assignment[:, patch] = torch.tensor([0.0, 0.0, 1.0])
    assert parts.background_loss(assignment, (3, 4)).item() == pytest.approx(0, abs=1e-3)
    assert parts.background_loss(torch.tensor([[[1.0, 0.0]]]), (1, 1)).isfinite()


def test_entropy_by_hand():
    assert parts.entropy_loss(torch.full((2, 3, 5), 0.2)).item() == pytest.approx(1, abs=1e-5)
    assert parts.entropy_loss(torch.eye(4)[None]).item() == pytest.approx(0, abs=1e-5)
    half = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])
    assert parts.entropy_loss(half).item() == pytest.approx(math.log(2) / math.log(4), abs=1e-5)


def test_total_variation_by_hand():
    maps = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])  # one step between columns 1 and 2, none between rows
    assignment = torch.stack([maps.flatten(), 1 - maps.flatten()], dim=-1)[None]
    assert parts.total_variation_loss(assignment, (2, 3)).item() == pytest.approx(0.5)
    assert parts.total_variation_loss(torch.full((2, 6, 3), 1 / 3), (2, 3)) == 0


@pytest.mark.parametrize("grid", [(1, 6), (6, 1), (1, 1)])
def test_total_variation_of_a_single_row_is_finite(grid):
    assignment = torch.rand(2, grid[0] * grid[1], 3)
    assert parts.total_variation_loss(assignment, grid).isfinite()


def test_equivariance_by_hand():
    assignment = torch.rand(2, 6, 3).softmax(dim=-1)
    assert parts.equivariance_loss(assignment, assignment) == 0
    assert parts.equivariance_loss(torch.eye(2)[None], torch.eye(2)[None].flip(1)).item() == pytest.approx(2)
