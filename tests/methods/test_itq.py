import torch

from razh.methods.itq import ITQ


def test_trains_nothing(make_method, make_batch):
    method = make_method(ITQ)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert method.losses(make_batch()) == {}
    assert method.training_step(make_batch(), 0) is None
    assert method.configure_optimizers() is None


def test_codes_keep_the_colours_of_classes_apart(make_method, make_batch):
    method, batch = make_method(ITQ).eval(), make_batch(32)
    with torch.no_grad():
        method.head.initialise(method.feature(batch))
        codes = method.codes(batch["image"]).float()
    distance = torch.cdist(codes, codes, p=1)
    same = batch["label"][:, None] == batch["label"][None, :]
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_logits_need_no_label(make_method, make_batch):
    method, batch = make_method(ITQ).eval(), make_batch()
    torch.testing.assert_close(method.hash_logits({"image": batch["image"]}), method(batch["image"]))
