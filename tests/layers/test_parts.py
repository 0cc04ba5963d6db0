import pytest
import torch
from torch.nn import functional as F

from razh.layers.parts import SoftPartClustering, part_vectors, spherical_kmeans, spread_centres

B, N, D, K = 3, 10, 6, 4


@pytest.fixture
def patches():
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(1))


def clustering(**arguments):
    return SoftPartClustering(D, K, embed_dim=5, **arguments)


KINDS = [
    {"centres": centres, "assignment": assignment} for centres in ("shared", "image") for assignment in ("soft", "hard")
]


@pytest.mark.parametrize("kind", KINDS)
def test_assignment_is_a_distribution_over_parts_and_background(patches, kind):
    vectors, assignment = clustering(**kind)(patches)
    assert vectors.shape == (B, K, D)
    assert assignment.shape == (B, N, K + 1)
    assert (assignment >= 0).all()
    torch.testing.assert_close(assignment.sum(dim=-1), torch.ones(B, N))


@pytest.mark.parametrize("kind", KINDS)
def test_hard_assignment_is_one_hot_and_takes_the_most_likely_slot(patches, kind):
    layer = clustering(**kind)
    _, assignment = layer(patches)
    is_one_hot = bool(((assignment == 0) | (assignment == 1)).all())
    assert is_one_hot == (kind["assignment"] == "hard")
    if kind == {"centres": "shared", "assignment": "hard"}:
        layer.assignment_kind = "soft"
        assert (layer(patches)[1].argmax(dim=-1) == assignment.argmax(dim=-1)).all()


def test_shared_assignment_equals_softmax_of_cosines_one_patch_at_a_time(patches):
    layer = clustering(temperature=0.3)
    _, assignment = layer(patches)
    for b in range(B):
        for n in range(N):
            x = patches[b, n]
            normed = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
            projected = layer.project.weight @ normed + layer.project.bias
            cosines = [torch.dot(projected, c) / projected.norm() / c.norm() for c in layer.centres]
            weights = [torch.exp(c / 0.3) for c in cosines]
            expected = torch.stack(weights) / sum(weights)
            torch.testing.assert_close(assignment[b, n], expected, rtol=1e-4, atol=1e-5)


def test_part_vector_is_the_weighted_mean_patch(patches):
    assignment = torch.rand(B, N, K)
    vectors = part_vectors(patches, assignment)
    for b in range(B):
        for k in range(K):
            total = sum(assignment[b, n, k] * patches[b, n] for n in range(N))
            mass = sum(assignment[b, n, k] for n in range(N))
            torch.testing.assert_close(vectors[b, k], total / mass, rtol=1e-4, atol=1e-5)


def test_part_without_patches_has_the_zero_vector(patches):
    assignment = torch.zeros(B, N, K)
    assignment[..., 0] = 1
    vectors = part_vectors(patches, assignment)
    torch.testing.assert_close(vectors[:, 0], patches.mean(dim=1))
    assert (vectors[:, 1:] == 0).all()


def test_background_column_has_no_part_vector(patches):
    layer = clustering()
    vectors, assignment = layer(patches)
    torch.testing.assert_close(vectors, part_vectors(patches, assignment[..., :K]))


def test_refined_centres_move_toward_the_patches_of_the_image(patches):
    shared, image = clustering(), clustering(centres="image", iterations=5)
    image.load_state_dict(shared.state_dict())

    def fit(layer):
        """Return the mean cosine of a patch with the mean patch of its slot."""
        _, assignment = layer(patches)
        embedded = F.normalize(layer.project(layer.norm(patches)), dim=-1)
        centres = F.normalize(assignment.transpose(1, 2) @ embedded, dim=-1)
        return (assignment * (embedded @ centres.transpose(1, 2))).sum(dim=-1).mean()

    assert fit(image) > fit(shared) + 0.01


def test_no_refinement_steps_leave_the_shared_centres(patches):
    shared, image = clustering(), clustering(centres="image", iterations=0)
    image.load_state_dict(shared.state_dict())
    torch.testing.assert_close(image(patches)[1], shared(patches)[1])


@pytest.mark.parametrize("centres", ["shared", "image"])
def test_order_of_patches_does_not_matter(patches, centres):
    layer = clustering(centres=centres)
    order = torch.randperm(N)
    vectors, assignment = layer(patches)
    shuffled_vectors, shuffled_assignment = layer(patches[:, order])
    torch.testing.assert_close(shuffled_assignment, assignment[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled_vectors, vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centres", ["shared", "image"])
def test_an_image_does_not_change_the_parts_of_another(patches, centres):
    layer = clustering(centres=centres)
    torch.testing.assert_close(layer(patches)[1][:1], layer(patches[:1])[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_and_the_patches_get_a_gradient(patches, kind):
    layer = clustering(**kind)
    patches.requires_grad_()
    vectors, assignment = layer(patches)
    (vectors.square().sum() + (assignment * torch.rand_like(assignment)).sum()).backward()
    assert patches.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_smaller_temperature_is_harder(patches):
    sharp, blunt = clustering(temperature=0.02), clustering(temperature=1.0)
    blunt.load_state_dict(sharp.state_dict())
    assert sharp(patches)[1].amax(dim=-1).mean() > blunt(patches)[1].amax(dim=-1).mean() + 0.2


@pytest.mark.parametrize(
    ("arguments", "message"), [({"parts": 0}, "parts=0"), ({"temperature": 0.0}, "temperature=0.0")]
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftPartClustering(**{"dim": D, "parts": K, **arguments})


def test_background_centres_share_one_column(patches):
    layer = clustering(background=3)
    vectors, assignment = layer(patches)
    assert vectors.shape == (B, K, D)
    assert assignment.shape == (B, N, K + 1)
    torch.testing.assert_close(assignment.sum(dim=-1), torch.ones(B, N))
    with torch.no_grad():
        layer.centres[K:] = -layer.centres[:1]  # three background centres opposite to part 0
    alone = clustering(background=1)
    alone.load_state_dict({**layer.state_dict(), "centres": layer.centres[: K + 1]})
    odds, single = (f(patches)[1] for f in (layer, alone))
    torch.testing.assert_close(odds[..., -1] / odds[..., 0], 3 * single[..., -1] / single[..., 0])


def test_kmeans_start_finds_the_object_in_the_middle():
    """Images of a 6 x 6 grid: two kinds of object patch in the middle 2 x 2, two backgrounds around."""
    generator = torch.Generator().manual_seed(0)
    kinds = 4 * torch.randn(4, 16, generator=generator)
    truth = torch.zeros(40, 6, 6, dtype=torch.long)
    truth[20:] = 1
    truth[:, 2:4, 2:4] = torch.tensor([[2, 3], [2, 3]])
    patches = kinds[truth.flatten(1)] + 0.3 * torch.randn(40, 36, 16, generator=generator)
    layer = SoftPartClustering(
        16, parts=2, background=2, embed_dim=3, temperature=0.05
    )  # four kinds span three dimensions
    layer.initialise(patches, (6, 6))
    found = layer(patches)[1].argmax(dim=-1)
    part_of = {int(kind): found[truth.flatten(1) == kind].unique().tolist() for kind in range(4)}
    assert part_of[0] == part_of[1] == [2]
    assert sorted(part_of[2] + part_of[3]) == [0, 1]


def test_spherical_kmeans_equals_a_slow_one():
    rows = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    centres = spread_centres(rows, 4, seed=2)
    fast = spherical_kmeans(rows, centres, iterations=10)
    for _ in range(10):
        groups = [[] for _ in centres]
        for row in rows:
            groups[max(range(4), key=lambda c, row=row: float(row @ centres[c]))].append(row)
        centres = torch.stack([sum(group) / sum(group).norm() for group in groups])
    torch.testing.assert_close(fast, centres, rtol=1e-4, atol=1e-4)


def test_kmeans_start_copes_with_fewer_dimensions_and_rows_than_centres():
    layer = SoftPartClustering(4, parts=6, background=20, embed_dim=64)
    layer.initialise(torch.randn(1, 9, 4), (3, 3))
    _, assignment = layer(torch.randn(2, 9, 4))
    assert assignment.isfinite().all()
