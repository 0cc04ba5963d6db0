"""Codes that fit a collection: better on it than without, steady under what does not belong, alike anywhere."""

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.nn import functional as F

from razh.collection import rows as reading
from razh.collection.clusters import NEIGHBOURS, Anchors, among_neighbours, far_images, fit_centres
from razh.collection.code import CollectionCode, Known, _alike, fit_collection
from razh.layers.hash import itq
from tests.collection.world import ATTRIBUTES, DIM, Collection, mean_precision
from tests.processes import forked, free_port

BITS = 16


@pytest.fixture(scope="module")
def world():
    return Collection()


def score(world, code):
    codes = code(world.queries) >= 0, code(world.rows) >= 0
    return mean_precision(codes[0], world.asked, codes[1], world.labels)


def fitted(world, described=None, **options):
    return fit_collection(world.rows.numpy(), BITS, world.known(described), clusters=4, **options)


def test_what_fits_the_collection_finds_its_unseen_classes_better_than_what_fits_the_training_images(world):
    weight, bias = itq(world.train, BITS)
    inductive = score(world, lambda x: x @ weight.T + bias)
    collection = score(world, fitted(world).code)
    both = score(world, fitted(world, world.described).code)
    assert collection > 1.2 * inductive
    assert both > 1.3 * inductive


def test_images_are_named_and_asked_for_by_descriptions_alone_and_permuted_ones_do_neither(world):
    def of(described):
        fit = fitted(world, described)
        centres = fit.code.centres[world.seen : world.seen + world.unseen]
        z = (world.queries - fit.code.mean) @ fit.code.whitening
        named = ((z @ centres.T).argmax(dim=1) == world.asked - world.seen).float().mean()
        asked = fit.code.of_directions(centres) >= 0
        return float(named), mean_precision(
            asked, torch.arange(world.seen, world.seen + world.unseen), fit.code(world.rows) >= 0, world.labels
        )

    right, permuted = of(world.described), of(world.described.roll(1, 0))
    assert right[0] > 0.9
    assert right[1] > 0.8
    assert permuted[0] < 0.3
    assert permuted[1] < 0.4


def test_described_classes_that_do_not_occur_do_no_harm(world):
    strange = (torch.rand(6, ATTRIBUTES, generator=torch.Generator().manual_seed(9)) > 0.5).float()
    fit = fitted(world, torch.cat([strange[:3], world.described, strange[3:]]))
    assert not {3, 4, 5, 6} & set(fit.lapsed)
    assert score(world, fit.code) > 0.9 * score(world, fitted(world, world.described).code)


def test_a_described_class_that_no_image_is_like_lapses():
    directions = torch.eye(4)
    anchors = Anchors(directions[:3], torch.cat([10 * directions[:1], torch.zeros(2, 4)]), described=2)
    centres, occurs = fit_centres(anchors, [directions[[0] * 6 + [1] * 6]], directions)
    assert occurs.tolist() == [True, True, False]
    assert torch.allclose(centres[2], directions[2], atol=1e-3)


def test_without_any_label_a_collection_has_codes_of_its_own(world):
    weight, bias = itq(world.train, BITS)
    fit = fit_collection(world.rows.numpy(), BITS, clusters=16)
    assert score(world, fit.code) > score(world, lambda x: x @ weight.T + bias)
    assert len(fit.lapsed) == 0
    assert len(fit.code.centres) <= 16


def test_free_clusters_start_where_nothing_is_known(world):
    fit = fitted(world)  # as many free clusters as unseen classes
    starts = fit.code.centres[world.seen :]
    z = (world.queries - fit.code.mean) @ fit.code.whitening
    assert len({int(c) for c in (z @ starts.T).argmax(dim=1)}) == len(starts) == 4


def test_more_clusters_than_different_images_are_not_made():
    z = torch.eye(5)[torch.arange(20) % 3]
    assert len(far_images(torch.zeros(0, 5), z, 10, seed=0)) == 3
    assert len(far_images(z[:1], z, 10, seed=0)) == 2


def test_free_clusters_take_no_image_from_a_described_class():
    generator = torch.Generator().manual_seed(0)
    means = torch.eye(20)[:4]
    z = F.normalize(means.repeat(25, 1) + 0.1 * torch.randn(100, 20, generator=generator), dim=1)
    anchors = Anchors(means[:3], torch.cat([means[:1], torch.zeros(2, 20)]), described=2)
    centres, occurs = fit_centres(anchors, [z], z, free=8)
    assert occurs.all()
    assert len(centres) > 3
    assert (centres[:3] @ means.T).diagonal().min() > 0.95
    assert (centres[3:] @ means[3] > 0.95).all()


def test_an_image_is_taken_with_its_neighbours_by_a_loop(world, monkeypatch):
    monkeypatch.setattr("razh.collection.clusters.CHUNK", 7)
    z = F.normalize(world.rows[:50], dim=1)
    for row, found in zip(z, among_neighbours(z), strict=True):
        near = sorted(z, key=lambda other: -float(row @ other))[: NEIGHBOURS + 1]
        assert torch.allclose(found, F.normalize(row + F.normalize(sum(near), dim=0), dim=0), atol=1e-5)
    assert torch.allclose(among_neighbours(z[:3]).norm(dim=1), torch.ones(3))


def test_neighbours_find_clusters_that_single_images_hide(monkeypatch):
    def purity(seed):
        generator = torch.Generator().manual_seed(seed)
        label = torch.arange(240) % 8
        z = F.normalize(torch.eye(64)[:8][label] + 0.25 * torch.randn(240, 64, generator=generator), dim=1)
        nothing = Anchors(torch.zeros(0, 64), torch.zeros(0, 64))
        centres, _ = fit_centres(nothing, [z], z, free=20)
        nearest = (z @ centres.T).argmax(dim=1)
        return sum(int(torch.bincount(label[nearest == c]).max()) for c in nearest.unique()) / len(z)

    together = [purity(seed) for seed in range(4)]
    monkeypatch.setattr("razh.collection.clusters.STEPS", 0)
    alone = [purity(seed) for seed in range(4)]
    assert sum(together) / 4 > 0.93
    assert sum(together) > sum(alone) + 4 * 0.02


def test_images_with_labels_tell_nothing_of_what_else_there_is(world):
    every = torch.cat([world.train, world.rows, world.train]).numpy()
    count, rows = len(world.train), len(world.rows)
    labelled = [*range(count), *range(count + rows, 2 * count + rows)]
    known = world.known(world.described)
    fit = fit_collection(every, BITS, known, clusters=4, labelled=labelled)
    assert torch.allclose(fit.code.centres, fitted(world, world.described).code.centres, atol=1e-6)
    assert not torch.equal(fit.code.weight, fitted(world, world.described).code.weight)  # which they are coded by
    nobody = fit_collection(world.train.numpy(), BITS, known, labelled=range(count))
    assert nobody.code(world.train).isfinite().all()
    assert nobody.clusters == 0


def test_centres_of_known_classes_are_held_and_labelled_images_keep_their_class():
    anchor, image = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    alone = Anchors(anchor, torch.zeros(1, 2), described=1)
    centres, occurs = fit_centres(alone, [image.repeat(5, 1)], image)
    expected = 0.8 * F.normalize(torch.tensor([1.0, 5.0]), dim=0) + 0.2 * anchor[0]
    assert torch.allclose(centres[0], F.normalize(expected, dim=0), atol=1e-5)
    assert occurs.tolist() == [True]
    held, _ = fit_centres(Anchors(anchor, 1000 * anchor), [image.repeat(5, 1)], image)
    assert held[0, 0] > 0.999


def test_the_same_seed_makes_the_same_code_and_a_state_brings_it_back(world):
    one, two = (fitted(world, world.described, seed=5).code for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    again = CollectionCode.of_shapes(one.state_dict())
    again.load_state_dict(one.state_dict())
    assert torch.equal(again(world.queries), one(world.queries))
    assert not torch.equal(fitted(world, world.described, seed=6).code.weight, one.weight)


def test_a_large_collection_is_sampled_evenly_and_read_in_chunks(world, monkeypatch):
    monkeypatch.setattr("razh.collection.code.MOST", 90)
    monkeypatch.setattr(reading, "CHUNK", 32)

    class Counted:
        shape = world.rows.shape
        most, rows = 0, set()

        def __getitem__(self, at):
            self.most = max(self.most, len(at))
            self.rows |= set(at.tolist())
            return world.rows.numpy()[at].astype(np.float16)

    monkeypatch.setattr("razh.collection.code.PILOT", 30)
    counted = Counted()
    fit = fit_collection(counted, BITS, world.known(), clusters=4)
    assert fit.code(world.rows).isfinite().all()
    assert counted.most <= 32
    assert len(counted.rows) <= 120


def _fit_on_a_rank(rank, size, port, out):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    reading.CHUNK = 50
    world = Collection()
    named = fit_collection(world.rows.numpy(), BITS, world.known(world.described), clusters=4)
    plain = fit_collection(world.rows.numpy(), BITS, clusters=8)
    codes = torch.stack([named.code(world.rows) >= 0, plain.code(world.rows) >= 0])
    torch.save((codes, named.code.centres), out / f"{size}-{rank}.pt")
    dist.destroy_process_group()


def test_one_two_and_three_processes_make_the_same_codes(tmp_path):
    started = []
    for size in (1, 2, 3):
        port = free_port()
        started += [forked(_fit_on_a_rank, rank, size, port, tmp_path) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    (codes, centres), *others = [torch.load(path) for path in sorted(tmp_path.glob("*.pt"))]
    assert len(others) == 5
    for other_codes, other_centres in others:
        assert torch.equal(codes, other_codes)
        assert torch.allclose(centres, other_centres, atol=1e-6)


def test_width_and_shape(world):
    assert fitted(world).code(torch.randn(3, DIM)).shape == (3, BITS)


def test_what_an_image_resembles_counts_less_where_images_of_a_class_are_alike(world):
    def length(noise):
        generator = torch.Generator().manual_seed(0)
        train = F.normalize(world.train, dim=1)
        train = train + noise * torch.randn(train.shape, generator=generator)
        same = Known(train, world.train_labels, world.attributes[: world.seen])
        weight = fit_collection(world.rows.numpy(), BITS, same, clusters=4).code.weight
        return float(weight[:, DIM:].norm() / weight[:, :DIM].norm())

    assert length(noise=1.0) > 1.2 * length(noise=0.0)


def test_likeness_is_the_mean_over_pairs_of_a_class():
    z = F.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(1)) + 1, dim=1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    pairs = [float(z[i] @ z[j]) for i in range(7) for j in range(7) if i != j and labels[i] == labels[j]]
    sums = torch.zeros(3, 5).index_add_(0, labels, z)
    assert _alike(sums, labels.bincount()) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert _alike(z[:3], torch.ones(3, dtype=torch.long)) == 0
    assert _alike(torch.zeros(1, 5), torch.tensor([2])) == 0
    assert _alike(3.001 * z[:1], torch.tensor([3])) == 1


def test_classes_of_copies_of_one_image_have_finite_codes(world):
    first = world.train[:: len(world.train) // world.seen]
    copies = Known(
        first.repeat_interleave(9, 0), torch.arange(len(first)).repeat_interleave(9), world.attributes[: world.seen]
    )
    assert fit_collection(world.rows.numpy(), BITS, copies, clusters=4).code(world.rows).isfinite().all()
