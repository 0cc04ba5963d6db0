"""Why: attributes that were read, where, what two images share, and who cannot tell."""

import numpy as np
import pytest
import torch

import razh
from razh.datamodules.images import evaluation_view
from razh.index.api import Model
from razh.index.encoding import TorchNetwork
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.run.checkpoint import Loaded
from razh.terms.base import Step
from tests.commands.conftest import trained

__all__ = ["trained"]

NAMES = ["head colour: red", "head colour: blue", "tail length: long", "tail length: short", "wing shape: round",
         "wing shape: long", "wing colour: red", "head size: big"]  # fmt: skip
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])


@pytest.fixture
def tell(make_method, make_backbone):
    """Return a factory of models that know the names of their attributes."""

    def make(method=RAZH, names=NAMES, **arguments):
        built = make_method(method, make_backbone(split=2), **arguments).eval()
        return Model(TorchNetwork(Loaded(built, {"attribute_names": names})), "best.ckpt")

    return make


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_strengths_are_those_that_the_code_is_told_and_maps_sum_to_them(tell, image):
    model = tell(attribute_groups=GROUPS)
    why = model.why(image)
    grid = model.method.backbone.grid
    assert sorted(found.name for found in why.attributes) == sorted(NAMES)
    strengths = [found.strength for found in why.attributes]
    assert strengths == sorted(strengths, reverse=True)
    batch = {"image": evaluation_view(image, model.method.backbone.image_size)[None]}
    read = dict(zip(NAMES, Step(model.method, batch).read[0].tolist(), strict=True))
    for found in why.attributes:
        assert found.map.shape == grid
        assert found.strength == pytest.approx(read[found.name], abs=1e-5)
        assert found.map.sum() == pytest.approx(found.strength, abs=1e-4)
        assert found.part == found.name.split()[0]
    assert list(why.parts) == ["head", "tail", "wing"]
    assert sum(why.parts.values()).max() <= 1 + 1e-5


def test_the_place_is_in_pixels_of_the_image(tell, image):
    why = tell(attribute_groups=GROUPS).why(image)
    assert why.box == (10, 0, 40)  # of 60 × 40, the middle is seen
    found = why.attributes[0]
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    step = 40 / len(found.map)
    assert found.at == pytest.approx((10 + (column + 0.5) * step, (row + 0.5) * step))


def test_two_images_share_what_is_strong_in_both(tell, image):
    model = tell(attribute_groups=GROUPS)
    one, other = model.why(image), model.why(image.flip(1))
    first, second = ({found.name: found.strength for found in why.attributes} for why in (one, other))
    everything = one.shared(other, above=-np.inf)
    assert [pair.query.name for pair in everything] == sorted(NAMES, key=lambda n: -min(first[n], second[n]))
    for pair in one.shared(other):
        assert pair.strength == min(first[pair.query.name], second[pair.hit.name]) > 0
    assert {pair.query.name for pair in one.shared(other)} == {n for n in NAMES if min(first[n], second[n]) > 0}


def test_learned_parts_have_numbers(tell, image):
    why = tell(names=[f"trait {m}" for m in range(8)], parts={"count": 3}).why(image)
    assert list(why.parts) == ["part 1", "part 2", "part 3"]
    assert {found.part for found in why.attributes} <= set(why.parts)


def test_who_reads_no_parts_says_so_in_one_line(tell, image, trained):
    refused = r"reads no attributes part by part, so it cannot tell why; train one with --method=razh"
    for model in (tell(CE), tell(names=[]), tell(parts={"read_from": "image"}), tell(weights={"attributes": 0.0}),
                  razh.load(trained[0])):  # fmt: skip
        with pytest.raises(ValueError, match=refused):
            model.why(image)
    with pytest.raises(ValueError, match="there are 2 images; ask about one at a time"):
        tell().why(torch.stack([image, image]))
