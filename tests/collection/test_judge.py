"""The criterion: it asks for codes that keep more of what is near, on images that nothing was fitted to."""

import torch

from razh.collection.clusters import Space
from razh.collection.judge import _alike, like_neighbours, trial
from razh.layers.hash import itq, within_class_whitening
from tests.collection.world import DIM, Collection


def test_like_neighbours_by_a_loop():
    torch.manual_seed(2)
    labels, codes = torch.arange(30) % 3, torch.rand(30, 4) > 0.5
    expected = []
    for i in range(30):
        others = [j for j in range(30) if j != i]
        distance = {j: int((codes[i] != codes[j]).sum()) for j in others}
        last = sorted(distance.values())[9]
        inside, tied = ([j for j in others if distance[j] in among] for among in (range(last), [last]))
        right = [sum(int(labels[j] == labels[i]) for j in some) for some in (inside, tied)]
        expected.append((right[0] + (10 - len(inside)) / len(tied) * right[1]) / 10)
    assert torch.allclose(like_neighbours(labels, codes), torch.tensor(expected))


def old(world):
    weight, bias = itq(world.train, 16)
    return lambda at: world.rows[at] @ weight.T + bias


def test_a_collection_with_structure_is_worth_it():
    world = Collection()
    verdict = trial(world.rows.numpy(), old(world), 16, world.known(world.described))
    assert verdict.better
    assert verdict.after > verdict.before


def test_noise_and_few_images_are_not():
    world = Collection()
    noise = torch.randn(400, DIM, generator=torch.Generator().manual_seed(1))
    weight, bias = itq(torch.randn(2000, DIM, generator=torch.Generator().manual_seed(2)), 16)
    assert not trial(noise.numpy(), lambda at: noise[at] @ weight.T + bias, 16).better
    few = world.rows[::9][:40]
    weight, bias = itq(world.train, 16)
    assert not trial(few.numpy(), lambda at: few[at] @ weight.T + bias, 16).better


def test_what_one_half_of_noise_tells_says_nothing_of_the_other():
    gains = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(400, DIM, generator=generator)
        weight, bias = itq(torch.randn(2000, DIM, generator=generator), 16)
        verdict = trial(noise.numpy(), lambda at, w=weight, b=bias, z=noise: z[at] @ w.T + b, 16)
        gains.append(verdict.after - verdict.before)
    assert abs(sum(gains) / len(gains)) < 0.01
    structure = trial(Collection().rows.numpy(), old(Collection()), 16)
    assert structure.after - structure.before > 4 * max(map(abs, gains))


def test_seen_classes_judge_and_described_ones_do_not():
    """Images of seen classes are told by name; what is said of others changes nothing."""
    world = Collection()
    own, wrong = world.known(world.described), world.known(1 - world.described)
    space = Space(world.train.mean(dim=0), within_class_whitening(world.train, world.train_labels))
    told = [_alike(world.rows, space, known, 0) for known in (own, wrong, world.known())]
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])
    seen = world.labels < world.seen
    assert (told[0] == world.labels)[seen].float().mean() > 0.6  # of eight
    assert not torch.equal(_alike(world.rows, space, None, 0), told[0])


def test_images_that_the_codes_were_trained_on_do_not_judge():
    """Codes that know the label of half of the images, and nothing of the others."""
    world = Collection()
    known = torch.arange(len(world.rows)) % 4 < 2  # of each half
    generator = torch.Generator().manual_seed(3)
    by_heart = torch.randn(int(world.labels.max()) + 1, 16, generator=generator)[world.labels]
    noise = torch.randn(len(world.rows), 16, generator=generator)
    logits = torch.where(known[:, None], by_heart, noise)
    labelled = known.nonzero().flatten().numpy()
    options = (world.rows.numpy(), lambda at: logits[at], 16, world.known(world.described))
    every, others = trial(*options), trial(*options, labelled=labelled)
    assert others.better
    assert others.before < every.before
    most = trial(*options, labelled=range(len(world.rows) - 10))  # too few are left
    assert most.before == every.before


def test_labelled_images_may_be_every_other_one():
    world = Collection()
    labelled = range(0, len(world.rows), 2)
    assert trial(world.rows.numpy(), old(world), 16, world.known(world.described), labelled=labelled).better
