import pytest
import torch
from torch.nn import functional as F

from razh.methods.adsh import ADSH
from razh.methods.comae import COMAE, AttributePrototypes


def test_prototypes_by_hand():
    network = AttributePrototypes(2, torch.tensor([0.5, 0.1]))
    network.prototypes.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    predicted, maps = network(torch.tensor([[[3.0, 1.0], [1.0, 5.0], [0.0, 2.0]]]))  # normed: (1, −1), (−1, 1), (−1, 1)
    torch.testing.assert_close(maps, torch.tensor([[[1.0, -1.0, -1.0], [-2.0, 2.0, 2.0]]]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(predicted, torch.tensor([[1.5, 2.1]]), rtol=1e-3, atol=1e-3)


def test_hash_loss_is_that_of_adsh(make_method, make_batch):
    method, base, batch = make_method(COMAE).eval(), make_method(ADSH).eval(), make_batch()
    base.load_state_dict(method.state_dict(), strict=False)
    terms, expected = method.losses(batch), base.losses(batch)
    torch.testing.assert_close(terms["hash"], expected["classification"])
    torch.testing.assert_close(terms["distance"], expected["distance"])
    torch.testing.assert_close(terms["variance"], expected["variance"])


def test_terms_of_the_prediction_by_hand(make_method, make_batch, facts):
    method, batch = make_method(COMAE).eval(), make_batch()
    terms, table = method.losses(batch), facts["class_attributes"]
    predicted = method.network(method.patches(batch)[:, method.backbone.prefix :])[0]
    torch.testing.assert_close(terms["regression"], (predicted - table[batch["label"]]).square().mean())
    scores = predicted @ table[[0, 1, 3, 4]].T  # not centred: cross-entropy cannot tell
    torch.testing.assert_close(terms["classification"], F.cross_entropy(scores, method.targets(batch)))


def test_attributes_join_the_code(make_method, make_batch):
    method, batch = make_method(COMAE).eval(), make_batch()
    plain = method.hash_logits(batch)
    torch.testing.assert_close(plain, method.head(method.feature(batch)))  # they start at no weight
    torch.nn.init.normal_(method.attribute_code.weight)
    predicted = method.network(method.patches(batch))[0] - method.mean_strength
    torch.testing.assert_close(method.hash_logits(batch), plain + predicted @ method.attribute_code.weight.T)


def test_code_without_attributes_is_linear_in_the_feature(make_method, make_batch):
    method, batch = make_method(COMAE, attributes_in_code=False).eval(), make_batch()
    torch.testing.assert_close(method.hash_logits(batch), method.head(method.feature(batch)))
    torch.stack(list(method.losses(batch).values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters())


def test_tokens_in_front_of_the_patches_are_no_part_of_the_maps(make_method, make_backbone, make_batch):
    method, batch = make_method(COMAE, make_backbone(split=1, freeze="all")).eval(), make_batch()
    assert method.backbone.prefix > 0
    terms = method.losses(batch)
    patches, feature = method.patches(batch), method.feature(batch)
    patches[:, : method.backbone.prefix] = 100
    cached = {"patches": patches, "feature": feature, "label": batch["label"]}
    for name, value in method.losses(cached).items():
        torch.testing.assert_close(value, terms[name])


def test_two_training_classes_are_refused(make_method):
    with pytest.raises(ValueError, match="at least 3 training classes, got 2"):
        make_method(COMAE, train_classes=torch.tensor([0, 1]))
