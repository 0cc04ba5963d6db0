from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from razh.methods.tsk import TSK, _discrete, signs, solve
from tests.methods.world import TRAIN, World

SETTINGS = {"embedding_penalty": 0.5, "fit_weight": 0.1, "projection_penalty": 0.01, "rounds": 6}


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    return randn(40, 7), randn(40, 5), signs(randn(40, 6))


def test_objective_never_rises(problem):
    objective = solve(*problem, **SETTINGS).objective
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(objective))
    assert objective[-1] < objective[0]


def test_objective_is_the_formula(problem):
    phi, embeddings, codes = problem
    found = solve(phi, embeddings, codes, **SETTINGS)
    penalty = 0.01 * phi.square().sum(dim=0).mean()
    expected = (found.rotation.T @ embeddings.T - found.weight.T @ found.codes.T).norm() ** 2
    expected += 0.5 * found.weight.norm() ** 2
    expected += 0.1 * (
        (found.codes.T - found.projection.T @ phi.T).norm() ** 2 + penalty * found.projection.norm() ** 2
    )
    assert found.objective[-1] == pytest.approx(float(expected))


def test_solution_keeps_its_constraints_and_its_input(problem):
    before = problem[2].clone()
    found = solve(*problem, **SETTINGS)
    torch.testing.assert_close(found.rotation.T @ found.rotation, torch.eye(5, dtype=torch.double))
    assert set(found.codes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(problem[2], before)


def test_bits_by_hand():
    """One image, two bits, W Wᵀ = 2 on and 1 off the diagonal: the second bit gives way to the first."""
    codes, gram = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert _discrete(codes, torch.tensor([[3.0, 0.5]]), gram).tolist() == [[1.0, -1.0]]
    assert _discrete(codes, torch.tensor([[3.0, 1.5]]), gram).tolist() == [[1.0, 1.0]]


def test_bits_are_at_a_minimum_of_single_flips(problem):
    _, wanted, _ = problem
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.double)
    codes = _discrete(signs(wanted), wanted, weight @ weight.T, sweeps=50)

    def cost(candidate):
        return (candidate @ weight).square().sum(dim=1) - 2 * (candidate * wanted).sum(dim=1)

    for bit in range(5):
        flipped = codes.clone()
        flipped[:, bit] *= -1
        assert (cost(codes) <= cost(flipped) + 1e-9).all()


def test_rotation_does_not_change_the_codes(problem):
    """With R square and W free it cannot: what the docstring says."""
    phi, embeddings, codes = problem
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.double))[0]
    torch.testing.assert_close(
        solve(phi, embeddings @ turn, codes, **SETTINGS).codes, solve(phi, embeddings, codes, **SETTINGS).codes
    )


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_logits_are_the_centred_kernels_projected(make_backbone, kernel):
    world = World(make_backbone(image_size=48, freeze="all"))
    method = world.make(TSK, kernel=kernel, anchors=50, bandwidth=0.5)
    method.start_from_features()
    seen = world.feature[: TRAIN * 20]
    assert method.hash_logits(world.batch(torch.arange(TRAIN * 20))).mean(dim=0).abs().max() < 1e-3
    if kernel == "rbf":
        spread = torch.cdist(seen, method.anchors).mean()
        expected = torch.exp(-torch.cdist(seen[:4], method.anchors).square() / (2 * (0.5 * spread) ** 2))
        torch.testing.assert_close(method.kernels(seen[:4]), expected)
        assert torch.cdist(method.anchors, seen).amin(dim=1).max() < 1e-2  # anchors are training images
    else:
        assert torch.equal(method.kernels(seen), seen)


def test_anchors_repeat_where_images_are_few(make_backbone):
    world = World(make_backbone(image_size=48, freeze="all"))
    method = world.make(TSK, anchors=TRAIN * 20 + 7)
    method.start_from_features()
    assert len(torch.unique(method.anchors, dim=0)) == TRAIN * 20
    assert method.hash_logits(world.batch(torch.arange(3))).isfinite().all()


def test_embeddings_are_unit_vectors_centred_on_the_training_classes(make_method, facts):
    table = facts["class_attributes"]
    for embedding, rows in (("attributes", table), ("vectors", table @ facts["attribute_vectors"])):
        expected = F.normalize(rows - rows[[0, 1, 3, 4]].mean(dim=0), dim=-1)
        torch.testing.assert_close(make_method(TSK, embedding=embedding).embeddings, expected)


def test_trains_nothing(make_method, make_batch):
    method = make_method(TSK)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert method.losses(make_batch()) == {}
    assert method.training_step(make_batch(), 0) is None
    assert method.configure_optimizers() is None
