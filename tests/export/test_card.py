"""The model card of a checkpoint whose codes were fitted to a collection; others are tested by the command."""

from razh.export.card import model_card

FACTS = {
    "razh": "0.2.0",
    "method": "ITQ",
    "bits": 64,
    "image_size": 224,
    "transform": "as it is",
    "checkpoint": "f" * 64,
    "classes": {"shape": [0, 0], "attributes": "", "trained": []},
    "check": [("images", "64 (drawn)")],
    "info": {
        "dataset": None,
        "class_names": [],
        "attribute_names": [],
        "split_fingerprint": "",
        "collection": {"setting": "unlabelled", "images": 1234, "seen": 0, "described": [], "clusters": 7},
    },
}


def test_a_bare_network_that_fits_a_collection_says_so():
    text = model_card(FACTS, "onnx")
    for words in (
        "| data set | none: a bare network |",
        "| codes fitted to | 1,234 images, 0 described classes, 7 clusters |",
        "| setting | unlabelled: unlabelled images alone |",
        "| split | none |",
        "None are known",
        "uint8 (n, 3, 224, 224)",
    ):
        assert words in text


def test_described_classes_are_not_said_to_be_trained_on():
    info = FACTS["info"] | {
        "dataset": "cub",
        "collection": FACTS["info"]["collection"] | {"seen": 2, "described": ["c"]},
    }
    text = model_card(FACTS | {"info": info, "classes": FACTS["classes"] | {"trained": [0, 1, 2]}}, "onnx")
    assert "| classes | 2 trained on |" in text
    assert "1,234 images, 1 described class, 7 clusters" in text


def test_the_card_of_tensors_names_the_folder():
    text = model_card(FACTS, "safetensors")
    assert "--checkpoint FOLDER" in text
    assert "bit for bit" in text
    assert "Other programs" not in text
