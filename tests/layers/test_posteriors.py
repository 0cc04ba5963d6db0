import pytest
import torch

from razh.layers.hash import HashHead, itq, within_class_whitening
from razh.layers.posteriors import ClassPosteriors, predicted_means

D, C = 12, 5


def images(each=30, spread=0.3, seed=0):
    """Return features (5 · each, 12) around five class means away from the origin, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(C, D, generator=torch.Generator().manual_seed(9)) + 3
    targets = torch.arange(C).repeat_interleave(each)
    return centres[targets] + spread * torch.randn(C * each, D, generator=generator), targets


def fitted(**arguments):
    features, targets = images()
    layer = ClassPosteriors(D, C, **arguments)
    layer.fit(features, targets)
    return layer


def test_squares_are_a_distribution_that_names_the_class():
    layer = fitted(weight=4.0)
    features, targets = images(seed=1)
    squares = layer(features).square() / 16
    torch.testing.assert_close(squares.sum(dim=1), torch.ones(len(features)))
    assert (squares.argmax(dim=1) == targets).all()


def test_scores_are_cosines_on_average_with_the_class_means_in_whitened_space():
    features, targets = images()
    layer = fitted(sharpness=7.0, weight=1.0)
    white = (features - features.mean(dim=0)) @ within_class_whitening(features, targets)
    white /= white.norm(dim=1).mean()
    means = torch.stack([white[targets == c].mean(dim=0) for c in range(C)])
    scores = white @ (means / means.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(layer(features), (7 * scores).softmax(dim=1).sqrt(), rtol=1e-3, atol=1e-4)


def test_units_of_the_features_do_not_matter():
    features, targets = images()
    small, large = ClassPosteriors(D, C), ClassPosteriors(D, C)
    small.fit(features, targets)
    large.fit(100 * features, targets)
    torch.testing.assert_close(large(100 * features), small(features), rtol=1e-3, atol=1e-4)


def test_gradients_are_finite_where_a_class_is_ruled_out():
    layer = fitted(sharpness=1e4)
    features = images(seed=1)[0].requires_grad_()
    out = layer(features)
    assert (out == 0).any()
    out.sum().backward()
    assert features.grad.isfinite().all()


def test_before_the_fit_nothing_is_known():
    torch.testing.assert_close(ClassPosteriors(D, 4, weight=2.0)(torch.randn(3, D)), torch.ones(3, 4))


def test_nothing_is_trained_and_all_is_saved():
    layer = fitted()
    assert not list(layer.parameters())
    assert layer.state_dict().keys() == {"directions", "mean"}


def test_a_class_without_images_is_refused():
    features, targets = images()
    with pytest.raises(ValueError, match=r"1 of 6 training classes have no image; set model.posteriors=none"):
        ClassPosteriors(D, 6).fit(features, targets)


def attributed(seed=3, noise=0.2):
    """Return features and classes of 20 classes whose means are linear in their attributes, and the attributes."""
    generator = torch.Generator().manual_seed(seed)
    attributes = torch.randn(20, 6, generator=generator)
    targets = torch.arange(20).repeat_interleave(20)
    means = attributes @ torch.randn(6, D, generator=generator)
    return means[targets] + noise * torch.randn(400, D, generator=generator), targets, attributes


def described_accuracy(attributes_of_described):
    features, targets, attributes = attributed()
    layer = ClassPosteriors(D, 15, 5, lead=0.2)
    seen = targets < 15
    centred = attributes - attributes[:15].mean(dim=0)
    layer.fit(features[seen], targets[seen], centred[:15], attributes_of_described(centred[15:]))
    assert layer(features).shape == (400, 20)
    found = layer(features[~seen])[:, 15:].argmax(dim=1) + 15
    return (found == targets[~seen]).float().mean()


def test_classes_without_images_are_known_by_their_attributes():
    assert described_accuracy(lambda attributes: attributes) > 0.9
    assert described_accuracy(lambda attributes: attributes.roll(1, dims=0)) < 0.3


def test_described_classes_have_a_lead():
    features, targets, attributes = attributed()
    shares = []
    for lead in (0.0, 0.2, 0.5):
        layer = ClassPosteriors(D, 15, 5, lead=lead)
        layer.fit(features[targets < 15], targets[targets < 15], attributes[:15], attributes[15:])
        shares.append(float(layer(features)[:, 15:].square().sum(dim=1).mean()))
    assert shares[0] < shares[1] < shares[2]


def test_predicted_means_at_a_point_solved_by_hand():
    """Attributes (1, 0) and (0, 1), penalty 1: the kernel is 2 I; (1, 1)/√2 gets (m₁ + m₂) / 2√2."""
    means = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    found = predicted_means(means, torch.eye(2) * 3, torch.tensor([[5.0, 5.0]]), 1.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0]]) / 2**0.5)


def test_a_head_starts_from_what_lies_beside_the_features():
    """As if whitened features of mean length 1 and the posteriors were one vector, rotated by ITQ."""
    features, targets = images()
    layer = fitted()
    head = HashHead(D + C, 8)
    head.initialise(features, within_class_whitening(features, targets), auxiliary=layer(features))
    white = features @ within_class_whitening(features, targets)
    white /= (white - white.mean(dim=0)).norm(dim=1).mean()
    both = torch.cat([white, layer(features)], dim=1)
    weight, bias = itq(both, 8)
    expected = torch.nn.functional.linear(both, weight, bias)
    torch.testing.assert_close(head(torch.cat([features, layer(features)], dim=1)), expected, rtol=1e-3, atol=1e-3)
