import pytest
import torch

from razh.methods.attribute_lsh import AttributeLSH


def test_logits_by_hand(make_method, make_batch, facts):
    """Hyperplanes times what the prediction has beyond the training classes' mean."""
    method, batch = make_method(AttributeLSH, standardise=False).eval(), make_batch()
    torch.nn.init.normal_(method.regressor.weight)
    centred = method.regressor(method.feature(batch)) - facts["class_attributes"][[0, 1, 3, 4]].mean(dim=0)
    expected = centred @ method.head.weight.T
    torch.testing.assert_close(method.hash_logits(batch), expected, rtol=1e-4, atol=1e-4)


def test_standardised_attributes_count_alike(make_method, facts):
    torch.manual_seed(3)
    plain = make_method(AttributeLSH, standardise=False, bits=400)
    torch.manual_seed(3)
    method = make_method(AttributeLSH, bits=400)
    spread = facts["class_attributes"][[0, 1, 3, 4]].std(dim=0, correction=0)
    torch.testing.assert_close(method.head.weight * spread, plain.head.weight)


def test_more_bits_than_attributes_all_differ(make_method, make_batch):
    method = make_method(AttributeLSH, bits=50)
    assert method.head.weight.shape == (50, 8)
    assert torch.linalg.matrix_rank(method.head.weight) == 8
    assert len(torch.unique(method.head.weight, dim=0)) == 50


@pytest.mark.parametrize("regression", ["mse", "bce"])
def test_mean_start_predicts_the_mean_of_the_training_classes(make_method, make_batch, facts, regression):
    method = make_method(AttributeLSH, regression=regression).eval()
    mean = facts["class_attributes"][[0, 1, 3, 4]].mean(dim=0)
    torch.testing.assert_close(method.regressor(method.feature(make_batch(1)))[0], mean)


def test_hyperplanes_stay_as_they_are(make_method):
    trained = {name for name, p in make_method(AttributeLSH).named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.startswith("backbone.")} == {"regressor.weight", "regressor.bias"}
