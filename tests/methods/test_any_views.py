"""Views are an option of every method: it sees their mean descriptor in the place of the feature."""

import pytest
import torch

from razh.backbones.views import MIRRORED, SIZES
from razh.methods.agnet import AgNet
from razh.methods.ce import CE
from razh.methods.comae import COMAE
from razh.methods.itq import ITQ
from razh.methods.mdsh import MDSH

KINDS = [AgNet, CE, COMAE, ITQ, MDSH]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("freeze", "array"), [("all", "descriptors"), ("trunk", "view_patches"), ("none", None)])
def test_a_method_sees_the_mean_of_views(kind, freeze, array, make_method, make_backbone, make_batch):
    backbone = make_backbone("test_efficientnet", split=3, freeze=freeze)
    method, batch = make_method(kind, backbone, views="auto").eval(), make_batch()
    assert method.views == (SIZES if freeze == "all" else MIRRORED)
    each = backbone.describe(batch["image"], method.views, method.view_size)
    assert torch.allclose(method.feature(batch), each.mean(dim=1), atol=1e-4)
    if kind is not COMAE:  # it wants the image's own patches, too
        assert method.cached_inputs == (() if array is None else (array,))
    logits = method(batch["image"])
    if array is not None:
        shown = backbone.embed_views(batch["image"], method.views, method.view_size)
        cached = {"descriptors": each, "view_patches": shown, "patches": method.patches(batch)}
        kept = {name: cached[name] for name in method.cached_inputs if name in cached}
        assert torch.allclose(method.hash_logits(kept), logits, atol=1e-3)
    method.train()
    terms = method.losses(batch)
    if terms:
        torch.stack(list(terms.values())).sum().backward()
        assert method.head.weight.grad.any()
        assert freeze == "all" or any(p.grad is not None and p.grad.any() for p in backbone.parameters())


def test_without_views_the_feature_is_the_backbones(make_method, make_batch):
    method, batch = make_method(CE).eval(), make_batch()
    assert method.views == ()
    assert torch.equal(method.feature(batch), method.backbone.encode(method.backbone.embed(batch["image"])))
