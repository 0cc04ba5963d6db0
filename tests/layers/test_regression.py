import math

import pytest
import torch
from torch.nn import functional as F

from razh.layers.regression import AttributeRegressor, attribute_regression_loss, ridge


def test_ridge_of_one_feature_by_hand():
    """Variance 2/3 and covariance 1: with a penalty of ½ variance the slope is 1 / (2/3 + 1/3)."""
    weight, bias = ridge(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [2.5], [4.0]]), penalty=0.5)
    assert weight.item() == pytest.approx(1.0, abs=1e-6)
    assert bias.item() == pytest.approx(2.5 - 1.0, abs=1e-6)


def test_ridge_without_penalty_finds_a_linear_map():
    features, weight, bias = torch.randn(50, 4), torch.randn(3, 4), torch.randn(3)
    found, offset = ridge(features, features @ weight.T + bias, penalty=1e-9)
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(offset, bias, rtol=1e-4, atol=1e-4)


def test_ridge_does_not_depend_on_the_features_scale_and_has_no_need_of_many_images():
    features, targets = torch.randn(6, 20), torch.randn(6, 2)
    weight, bias = ridge(features, targets, penalty=0.1)
    scaled, offset = ridge(100 * features, targets, penalty=0.1)
    torch.testing.assert_close(100 * features @ scaled.T + offset, features @ weight.T + bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["mse", "bce"])
def test_start_predicts_what_features_tell(kind):
    strength = torch.rand(40, 3) * 0.8 + 0.1
    features = torch.cat([strength if kind == "mse" else strength.logit(), torch.randn(40, 2)], dim=1)
    layer = AttributeRegressor(5, 3, kind)
    layer.initialise(features, strength, penalty=1e-9)
    torch.testing.assert_close(layer(features), strength, rtol=1e-3, atol=1e-3)


def test_loss_by_kind():
    features, strength = torch.randn(4, 5), torch.rand(4, 3)
    squared, crossed = AttributeRegressor(5, 3), AttributeRegressor(5, 3, "bce")
    torch.testing.assert_close(squared.loss(features, strength), F.mse_loss(squared(features), strength))
    expected = F.binary_cross_entropy(crossed(features), strength)
    torch.testing.assert_close(crossed.loss(features, strength), expected)


def test_attribute_regression_by_hand():
    scores, strength = torch.tensor([[0.2, 0.0]]), torch.tensor([[0.5, 1.0]])
    assert attribute_regression_loss(scores, strength).item() == pytest.approx((0.09 + 1.0) / 2)
    share = 1 / (1 + math.exp(-0.2))
    crossed = (-0.5 * math.log(share) - 0.5 * math.log(1 - share) + math.log(2)) / 2
    assert attribute_regression_loss(scores, strength, "bce").item() == pytest.approx(crossed, abs=1e-6)
