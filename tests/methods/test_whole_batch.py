"""Losses do not depend on the number of devices: gradients of two processes on halves, and of one on all images."""

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from razh.backbones.timm import TimmBackbone
from razh.methods.agnet import AgNet
from razh.methods.comae import COMAE
from razh.methods.mlzsh import MLZSH, NOBODY
from razh.methods.psdzh import PSDZH
from razh.methods.sitnet import SitNet
from razh.support.distributed import settle
from tests.methods.test_baselines import METHODS
from tests.methods.views import razh_views

EVERY = [(kind, {}) for kind in (*METHODS, COMAE, PSDZH, SitNet)]
EVERY += [(AgNet, {"similarity": "class"}), (AgNet, {"similarity": "attributes"}), (razh_views, {"bits": 16})]


def build(kind, options):
    """Return a method on a tiny network that knows all six classes."""
    torch.manual_seed(0)
    facts = {
        "class_attributes": torch.rand(6, 8),
        "attribute_vectors": torch.randn(8, 5),
        "train_classes": torch.arange(6),
    }
    method = kind(backbone=TimmBackbone("test_vit", split=0, image_size=32), **{"bits": 12, **facts, **options})
    return method.eval()  # statistics of batches are another matter


def gradients(method, batch):
    """Return the gradient of the sum of all terms, by parameter; some images of a collection have no label."""
    if isinstance(method, MLZSH):
        batch = batch | {"label": torch.where(batch["index"] % 5 == 0, NOBODY, batch["label"])}
    torch.stack(list(method.losses(batch).values())).sum().backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def check(rank, size, file):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    batch = {"image": images, "label": torch.arange(12) * 5 % 6, "index": torch.arange(12)}
    own = {name: rows.chunk(size)[rank] for name, rows in batch.items()}
    mine = [gradients(build(*method), batch) for method in EVERY[rank::size]]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        shares = [[] for _ in range(size)]
        dist.all_gather_object(shares, mine)
        alone = [shares[number % size][number // size] for number in range(len(EVERY))]
        for (kind, options), expected in zip(EVERY, alone, strict=True):
            found = gradients(build(kind, options), own)
            assert found.keys() == expected.keys()
            for name, gradient in found.items():  # as DDP does
                dist.all_reduce(gradient)
                assert torch.allclose(gradient / size, expected[name], rtol=1e-3, atol=1e-5), (kind.__name__, name)
        dist.barrier()
    finally:
        settle()
        dist.destroy_process_group()


@pytest.mark.ddp
def test_two_devices_have_the_gradient_of_one(tmp_path):
    multiprocessing.start_processes(check, (2, str(tmp_path / "meet")), nprocs=2, start_method="forkserver")
