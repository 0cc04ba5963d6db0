import faiss
import pytest
import torch
from torch.nn import functional as F

from razh.layers.hash import HashHead, bi_half, binarize, itq, straight_through_sign, within_class_whitening

D = 16


@pytest.fixture(scope="module")
def features():
    """Return 8 clusters of 40 points (320, 16), away from the origin, more variance in some directions."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(8, D, generator=generator) * torch.linspace(3, 0.5, D)
    return centres.repeat_interleave(40, dim=0) + 0.3 * torch.randn(320, D, generator=generator) + 5


def outputs(features, *args, **kwargs):
    weight, bias = itq(features, *args, **kwargs)
    return F.linear(features, weight, bias)


def error(logits):
    """Return the quantisation error of outputs in units of their own size."""
    return float((logits - logits.sign()).square().mean() / logits.square().mean())


def neighbours_kept(features, logits, k=10):
    """Return the share of each point's nearest neighbours that are of its own cluster, by Hamming distance."""
    code = torch.where(logits >= 0, 1.0, -1.0)
    similarity = code @ code.T - 1e3 * torch.eye(len(code))
    cluster = torch.arange(len(code)) // 40
    return float((cluster[similarity.topk(k).indices] == cluster[:, None]).float().mean())


def test_zero_is_a_set_bit():
    assert binarize(torch.tensor([-1.0, -0.0, 0.0, 1e-9])).tolist() == [False, True, True, True]


@pytest.mark.parametrize("bits", [1, 7, 12, 64])
def test_any_code_length(features, bits):
    logits = outputs(features, bits)
    assert logits.shape == (320, bits)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.mean(dim=0), torch.zeros(bits), rtol=0, atol=1e-3)
    assert logits.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    code = binarize(logits).float()
    assert ((code.mean(dim=0) > 0) & (code.mean(dim=0) < 1)).all(), "a bit is constant"


def test_projection_is_an_isometry_of_the_principal_space(features):
    """With as many bits as dimensions, PCA and rotation keep all distances, up to the common scale."""
    logits = outputs(features, D)
    ratio = torch.pdist(logits) / torch.pdist(features)
    assert ratio.std() / ratio.mean() < 1e-3


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_rotation_quantises_no_worse_than_pca(features, bits):
    assert error(outputs(features, bits)) <= error(outputs(features, bits, rotate=False)) + 1e-6


@pytest.mark.parametrize("bits", [4, 8, 12, 40])
def test_iterations_lower_the_error_of_the_random_start(features, bits):
    errors = [error(outputs(features, bits, iterations=iterations)) for iterations in (0, 1, 5, 50)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_pca_alone_gives_uncorrelated_outputs_by_variance(features):
    logits = outputs(features, 6, rotate=False)
    covariance = logits.T @ logits / len(logits)
    variance = covariance.diagonal()
    assert (variance[:-1] >= variance[1:] - 1e-4).all()
    torch.testing.assert_close(covariance, variance.diag(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("bits", [8, 12])
def test_as_good_as_faiss(features, bits):
    reference = faiss.ITQTransform(D, bits, True)
    reference.train(features.numpy())
    theirs = torch.from_numpy(reference.apply(features.numpy()))
    ours = outputs(features, bits)
    assert error(ours) <= 1.1 * error(theirs / theirs.square().mean().sqrt())  # FAISS leaves the scale as it comes
    assert neighbours_kept(features, ours) >= neighbours_kept(features, theirs) - 0.03
    assert neighbours_kept(features, ours) > 0.9


def test_deterministic_and_seeded(features):
    assert torch.equal(itq(features, 8)[0], itq(features, 8)[0])
    assert not torch.equal(itq(features, 8, seed=1)[0], itq(features, 8, seed=2)[0])


def test_fewer_images_than_bits_or_dimensions():
    features = torch.randn(5, 20)
    logits = outputs(features, 12)
    assert logits.isfinite().all()
    assert len({tuple(row) for row in binarize(logits).tolist()}) == 5


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.full((5, 4), float("nan")), "finite"),
        (torch.tensor([[1.0, 2.0], [3.0, float("inf")]]), "finite"),
        (torch.zeros(1, 4), "at least 2"),
        (torch.ones(5, 4), "differ"),
    ],
)
def test_features_that_cannot_be_used_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        itq(features, 4)


@pytest.mark.parametrize("bits", [0, -3])
def test_head_needs_a_bit(bits):
    with pytest.raises(ValueError, match=f"bits={bits}"):
        HashHead(8, bits)


@pytest.mark.parametrize("rotate", [True, False])
def test_head_starts_from_the_features(features, rotate):
    head = HashHead(D, 9)
    head.initialise(features, rotate=rotate)
    torch.testing.assert_close(head(features), outputs(features, 9, rotate=rotate))
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_straight_through_sign_is_exact_and_passes_the_gradient():
    logits = torch.tensor([[0.3, -1e-8, 0.0, -7.7]], requires_grad=True)
    code = straight_through_sign(logits)
    assert code.tolist() == [[1.0, -1.0, 1.0, -1.0]]  # as `binarize`: 0 is a set bit
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    (code * weight).sum().backward()
    assert torch.equal(logits.grad, weight)


def test_straight_through_sign_can_stop_the_gradient_of_large_logits():
    logits = torch.tensor([[0.3, -7.7]], requires_grad=True)
    straight_through_sign(logits, clip=3.0).sum().backward()
    assert logits.grad.tolist() == [[1.0, 0.0]]


def test_bi_half_halves_every_bit_by_the_size_of_logits():
    logits = torch.tensor([[0.1, -5.0], [0.2, -1.0], [0.3, -3.0], [0.4, -2.0]], requires_grad=True)
    code = bi_half(logits)
    assert code.tolist() == [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    (3 * code).sum().backward()
    assert (logits.grad == 3).all()


@pytest.mark.parametrize("count", [1, 5, 8])
def test_bi_half_balances_ties_and_odd_batches(count):
    assert ((bi_half(torch.zeros(count, 3)) == 1).sum(dim=0) == count // 2).all()


def test_whitening_evens_out_what_differs_within_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(500)
    spread = torch.tensor([10.0, 1.0, 0.1])
    features = torch.randn(4, 3, generator=generator)[labels] + spread * torch.randn(2000, 3, generator=generator)
    matrix = within_class_whitening(features, labels, shrinkage=1e-6)
    torch.testing.assert_close(matrix, matrix.T)
    white = features @ matrix
    rest = white - torch.stack([white[labels == c].mean(dim=0) for c in range(4)])[labels]
    covariance = rest.T @ rest / len(rest)
    torch.testing.assert_close(covariance / covariance[0, 0], torch.eye(3), rtol=1e-2, atol=1e-2)


def test_strong_shrinkage_leaves_the_directions_as_they_are():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator) * torch.tensor([3.0, 1.0, 0.3])
    matrix = within_class_whitening(features, torch.arange(4).repeat(10), shrinkage=1e6)
    torch.testing.assert_close(matrix / matrix[0, 0], torch.eye(3), rtol=1e-3, atol=1e-3)


def test_whitened_start_is_a_linear_map_of_the_feature_itself():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 6, generator=generator), torch.arange(60) % 5
    head = HashHead(6, 4)
    matrix = within_class_whitening(features, labels)
    head.initialise(features, matrix)
    weight, bias = itq(features @ matrix, 4)
    torch.testing.assert_close(head(features), F.linear(features @ matrix, weight, bias), rtol=1e-4, atol=1e-4)


def test_inputs_beyond_the_features_weigh_nothing_at_the_start(features):
    head, wider = HashHead(D, 8), HashHead(D + 5, 8)
    head.initialise(features)
    wider.initialise(features)
    assert torch.equal(wider.weight[:, :D], head.weight)
    assert torch.equal(wider.bias, head.bias)
    assert not wider.weight[:, D:].any()
