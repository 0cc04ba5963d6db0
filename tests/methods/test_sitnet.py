import pytest
import torch
from torch.nn import functional as F

from razh.losses.attributes import semantic_margins
from razh.methods.sitnet import SitNet, centre_loss


def test_centre_loss_by_hand():
    codes, centres = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [1.0, -2.0]])
    distance = (0.0 + 1.0 + 0.25 + 1.0) / 4  # targets 1 and 0
    regular = (0.25 + 1.0 + 0.0 + 1.0) / 4
    loss = centre_loss(codes, torch.tensor([1, 0]), centres, penalty=0.2)
    assert loss.item() == pytest.approx(distance + 0.2 * regular)


def test_centre_loss_is_zero_where_codes_are_their_centres():
    centres = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert centre_loss(centres[[0, 1, 1]], torch.tensor([0, 1, 1]), centres, penalty=1.0) == 0


def test_terms_see_the_signs_only(make_method, make_batch):
    method, batch = make_method(SitNet).eval(), make_batch()
    terms = method.losses(batch)
    code = method.codes(batch["image"]).float() * 2 - 1
    targets = method.targets(batch)
    torch.testing.assert_close(terms["classification"], F.cross_entropy(method.classifier(code), targets))
    with torch.no_grad():
        method.head.weight *= 5
        method.head.bias *= 5
    for name, value in method.losses(batch).items():
        torch.testing.assert_close(value, terms[name])


def test_margins_by_kind(make_method):
    semantic, constant = make_method(SitNet, margin=0.4), make_method(SitNet, margin=0.4, margin_kind="constant")
    assert (constant.margins == 0.4).all()
    torch.testing.assert_close(semantic.margins, semantic_margins(semantic.prototypes, 0.4))
