"""Images of classes whose mean descriptions are a linear map of their attributes, drowned in nuisance."""

import torch
from torch.nn import functional as F

from razh.collection.code import Known

DIM, ATTRIBUTES = 24, 6


class Collection:
    """Eight seen and four unseen classes; `rows` are unlabelled images of all of them, held out where seen."""

    def __init__(self, images=30, seen=8, unseen=4, seed=3):
        g = torch.Generator().manual_seed(seed)
        self.attributes = torch.rand(seen + unseen, ATTRIBUTES, generator=g)
        basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=g))[0]
        means = 3 * (self.attributes - 0.5) @ basis[:ATTRIBUTES]
        self.seen, self.unseen = seen, unseen

        def some(classes, count):
            label = torch.tensor(classes).repeat_interleave(count)
            loud = torch.randn(len(label), DIM - ATTRIBUTES, generator=g) @ basis[ATTRIBUTES:]
            return means[label] + loud + 0.3 * torch.randn(len(label), DIM, generator=g), label

        self.train, self.train_labels = some(range(seen), images)
        self.rows, self.labels = some(range(seen + unseen), images)
        self.queries, self.asked = some(range(seen, seen + unseen), images)

    def known(self, described=None):
        return Known(self.train, self.train_labels, self.attributes[: self.seen], described)

    @property
    def described(self):
        return self.attributes[self.seen :]


def mean_precision(codes, labels, database, database_labels):
    """Return the mean average precision of codes (Q, L) in a database, by a loop; ties as they stand."""
    found = []
    for code, label in zip(codes, labels, strict=True):
        order = (code != database).sum(dim=1).argsort(stable=True)
        right = (database_labels[order] == label).double()
        found.append((right.cumsum(0) / torch.arange(1, len(right) + 1) * right).sum() / right.sum())
    return float(torch.stack(found).mean())


def named(z, centres):
    return (F.normalize(z, dim=1) @ centres.T).argmax(dim=1)
