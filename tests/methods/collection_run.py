"""A run of a method that trains on the collection where the setting gives one."""

import json

from razh.cli.main import main

SMALL = {"seen_classes": 8, "unseen_classes": 3, "images_per_class": 20, "image_size": 32, "batch_size": 16}


def check_run(folder, method, setting, *more):
    """Train for an epoch; assert that the collection joined in `both` alone, and return how many images it has."""
    words = [f"--data.{name}={value}" for name, value in SMALL.items()]
    words += [f"--method={method}", "--bits=12", f"--data.setting={setting}", "--backbone=test-vit", *more]
    words += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    words += ["--model.backbone.split=2", "--model.backbone.freeze=all"]  # cached, mirror images of training images
    words += ["--figures.enabled=false", "--measures.enabled=false", f"--run_dir={folder}"]
    assert main(["train", *words]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    split = json.loads((folder / "split.json").read_text())
    collection = len(split["database"]) if setting == "both" else 0
    assert metrics["throughput/train_images"] == (len(split["train"]) + collection) // 16 * 16
    assert metrics["collection/fitted"] is (setting == "both")
    assert metrics["collection/adapted"] is False
    return collection
