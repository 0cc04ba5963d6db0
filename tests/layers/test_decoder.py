import pytest
import torch

from razh.layers.decoder import PatchDecoder, hide, pixel_targets


def test_decoder_predicts_every_token_and_trains_everything():
    decoder = PatchDecoder(dim=6, target_dim=5, grid=(2, 3), width=8)
    out = decoder(torch.randn(4, 6, 6))
    assert out.shape == (4, 6, 5)
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


def test_decoder_mixes_neighbours_of_the_grid_only():
    decoder = PatchDecoder(dim=6, target_dim=5, grid=(3, 4), width=8)
    tokens = torch.randn(1, 12, 6)
    changed = tokens.clone()
    changed[0, 0] = torch.randn(6)  # row 0, column 0
    moved = (decoder(changed) - decoder(tokens)).abs().sum(dim=-1)[0].view(3, 4) > 1e-7
    assert moved[:2, :2].all()
    assert not moved[2:].any()
    assert not moved[:, 2:].any()


def test_targets_are_normalised_per_cell():
    images = 255 * torch.randint(0, 2, (3, 3, 8, 10), dtype=torch.uint8)
    targets = pixel_targets(images, (4, 5), 2)
    assert targets.shape == (3, 20, 12)
    torch.testing.assert_close(targets.mean(dim=-1), torch.zeros(3, 20), rtol=0, atol=1e-5)
    torch.testing.assert_close(targets.var(dim=-1, unbiased=False), torch.ones(3, 20), rtol=0, atol=0.01)


def test_flat_cells_have_targets_of_zero():
    assert (pixel_targets(torch.full((1, 3, 8, 8), 77, dtype=torch.uint8), (2, 2), 4).abs() < 1e-4).all()


def test_checkerboard_shows_the_order_of_cells_and_pixels():
    """Cells go row by row; in a cell come channel, row, column."""
    image = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    image[0, 0, 0, 2] = 255  # red, row 0, column 2: cell (0, 1), pixel (0, 0)
    image[0, 2, 3, 1] = 255  # blue, row 3, column 1: cell (1, 0), pixel (1, 1)
    targets = pixel_targets(image, (2, 3), 2)[0]
    bright = {(int(cell), int(place)) for cell, place in (targets > 1).nonzero()}
    assert bright == {(1, 0), (3, 2 * 4 + 3)}


def test_targets_equal_an_explicit_loop():
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    targets = pixel_targets(images, (2, 3), 2)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                cell = images[b, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].float() / 255
                small = cell.reshape(3, 2, 2, 2, 2).mean(dim=(2, 4)).flatten()
                expected = (small - small.mean()) / (small.var(unbiased=False) + 1e-4).sqrt()
                torch.testing.assert_close(targets[b, 3 * row + column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_hide_replaces_about_this_share(share):
    patches, mask = torch.randn(40, 50, 4), torch.full((4,), 9.0)
    visible, hidden = hide(patches, mask, share)
    assert hidden.mean().item() == pytest.approx(share, abs=0.05)
    assert torch.equal(visible[hidden.bool()], mask.expand(int(hidden.sum()), 4))
    assert torch.equal(visible[~hidden.bool()], patches[~hidden.bool()])


def test_hide_gives_the_mask_vector_a_gradient():
    mask = torch.zeros(4, requires_grad=True)
    visible, hidden = hide(torch.randn(5, 6, 4), mask, 0.5)
    visible.sum().backward()
    torch.testing.assert_close(mask.grad, torch.full((4,), float(hidden.sum())))
