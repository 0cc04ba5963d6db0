"""A world in which attributes are all there is to know: features are a linear map of them, drowned in nuisance."""

from types import SimpleNamespace

import torch

CLASSES, TRAIN, ATTRIBUTES, IMAGES = 24, 16, 10, 20


class World:
    """Images of 24 classes, of which the last eight are unseen, as a frozen backbone's cached arrays.

    Each attribute has a direction of its own; a patch shows one attribute, as strongly as the class has it. Loud
    directions that tell nothing make random or unsupervised codes poor.
    """

    def __init__(self, backbone):
        generator = torch.Generator().manual_seed(5)

        def randn(*shape):
            return torch.randn(*shape, generator=generator)

        dim, patches = backbone.dim, backbone.num_patches
        assert backbone.feature_dim == dim
        self.backbone = backbone
        table = torch.rand(CLASSES, ATTRIBUTES, generator=generator).round()
        self.label = torch.arange(CLASSES).repeat_interleave(IMAGES)
        basis = torch.linalg.qr(randn(dim, dim))[0]
        signal, nuisance = basis[:ATTRIBUTES], basis[ATTRIBUTES:]
        count = len(self.label)
        place = torch.randint(0, patches, (count, ATTRIBUTES), generator=generator)
        shown = torch.zeros(count, patches, ATTRIBUTES).scatter(1, place[:, None], 2 * table[self.label][:, None] - 1)
        loud = 0.3 * randn(count, 1, dim - ATTRIBUTES) @ nuisance
        self.patches = 2 * shown @ signal + loud + 0.1 * randn(count, patches, dim)
        self.feature = self.patches.mean(dim=1)
        self.facts = {
            "class_attributes": 0.1 + 0.8 * table,
            "attribute_vectors": randn(ATTRIBUTES, 6),
            "train_classes": torch.arange(TRAIN),
        }

    def batch(self, rows):
        """Return a batch of the images of these rows."""
        arrays = {"patches": self.patches, "feature": self.feature, "label": self.label}
        return {name: values[rows] for name, values in arrays.items()} | {"index": rows}

    def make(self, kind, **arguments):
        """Return a method of 32 bits, with the little of a trainer that its start asks for."""
        method = kind(backbone=self.backbone, **{**self.facts, "bits": 32, **arguments})
        seen = torch.arange(TRAIN * IMAGES)
        data = SimpleNamespace(
            labels=self.label.numpy(),
            split=SimpleNamespace(train=seen.numpy()),
            initialisation_dataloader=lambda: [self.batch(rows) for rows in seen.split(100)],
        )
        method._trainer = SimpleNamespace(datamodule=data, strategy=SimpleNamespace(broadcast=lambda value: value))
        return method

    def fit(self, method, steps=150, lr=1e-2):
        """Start and train a method on the seen classes; return the sum of its terms at every step."""
        method.start_from_features()
        trained = [p for p in method.parameters() if p.requires_grad]
        history, generator = [], torch.Generator().manual_seed(0)
        for _ in range(steps if trained else 0):
            rows = torch.randperm(TRAIN * IMAGES, generator=generator)[:64]
            loss = torch.stack(list(method.losses(self.batch(rows)).values())).sum()
            if not history:
                optimizer = torch.optim.AdamW(trained, lr=lr)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(float(loss.detach()))
        return history

    @torch.no_grad()
    def unseen_precision(self, method):
        """Return which share of an unseen image's 10 nearest codes, among unseen images, is of its class."""
        rows = torch.arange(TRAIN * IMAGES, len(self.label))
        codes = (method.eval().hash_logits(self.batch(rows)) >= 0).float()
        distance = torch.cdist(codes, codes, p=1).fill_diagonal_(torch.inf)
        nearest = self.label[rows][distance.argsort(dim=1, stable=True)[:, :10]]
        return float((nearest == self.label[rows][:, None]).float().mean())
