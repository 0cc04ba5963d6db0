"""The model card of an exported folder: Markdown with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from razh.support.terminal import counted

__all__ = ["model_card"]

NAMES = {"onnx": "ONNX", "safetensors": "safetensors"}
SETTINGS = {
    "inductive": "no attributes of the unseen classes, no images of the collection",
    "described": "attributes of the unseen classes",
    "collection": "unlabelled images of the collection",
    "both": "attributes of the unseen classes, and unlabelled images of the collection",
    "unlabelled": "unlabelled images alone",
}


def model_card(facts: Mapping[str, Any], kind: str) -> str:
    """Return the card; what is not known is said to be so, and no figure is made up.

    Args:
        facts: of `razh.json`, with the rows of `Check.rows` in the place of `check`.
        kind: `onnx` or `safetensors`.
    """
    info = facts["info"]
    backbone = _backbone(info)
    front = {
        "library_name": "razh",
        "pipeline_tag": "image-feature-extraction",
        "license": "other",
        "license_name": "unknown",
        "tags": ["hashing", "image-retrieval", "zero-shot", kind, *([f"timm/{backbone}"] if backbone else [])],
    }
    title = f"{facts['method']}, {facts['bits']} bits, {backbone or 'its own network'}"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {title}\n",
        f"Binary codes of images for search by Hamming distance, as {NAMES[kind]}; exported by razh {facts['razh']}.\n",
        _table("", _what(facts, info)),
        "## Figures\n\n" + _figures(facts),
        _check(facts, kind),
        "## Use\n\n" + _use(facts, kind),
        _LICENCE,
    ]
    return "\n".join(part for part in parts if part)


def _backbone(info: Mapping[str, Any]) -> str:
    try:
        return str(info["model"]["init_args"]["backbone"]["init_args"]["name"])
    except (KeyError, TypeError):
        return ""


def _what(facts: Mapping[str, Any], info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the network is and was trained on, in words."""
    run, fitted = facts.get("run") or {}, info.get("collection") or {}
    trained = fitted["seen"] if fitted else len(facts["classes"]["trained"])  # fitted codes know described ones, too
    counts = run.get("classes") or {}
    seen = f"{counts['seen']:,} seen, {counts['unseen']:,} unseen" if counts else f"{trained:,} trained on"
    setting = fitted.get("setting") or run.get("setting")
    rows = [
        ("data set", info.get("dataset") or ("none: a bare network" if not trained else "unknown")),
        ("classes", seen),
        ("attributes", f"{len(info.get('attribute_names') or ()):,}"),
        ("split", _split(run, info)),
        ("setting", f"{setting}: {SETTINGS.get(setting, '')}" if setting else "unknown: the run is not beside it"),
        ("image", f"{facts['image_size']} × {facts['image_size']} pixels: {facts['transform']}"),
        ("checkpoint", f"SHA-256 `{facts['checkpoint']}`"),
    ]
    if fitted:
        described = counted(len(fitted["described"]), "described class", "described classes")
        found = f"{counted(fitted['images'], 'image')}, {described}, {counted(fitted['clusters'], 'cluster')}"
        rows.insert(5, ("codes fitted to", found))
    return [(name, str(value)) for name, value in rows]


def _split(run: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    fingerprint = info.get("split_fingerprint")
    protocol = run.get("protocol") or info.get("split_protocol") or "unknown"
    refit = "; trained again on all seen classes" if run.get("refit") or info.get("refit") else ""
    return f"protocol {protocol}, fingerprint `{fingerprint}`{refit}" if fingerprint else "none"


def _figures(facts: Mapping[str, Any]) -> str:
    metrics = facts.get("metrics") or {}
    if not metrics:
        return "None are known: the checkpoint did not lie in the run that tested it.\n"
    rows = [(name.removeprefix("test/"), f"{value:.4f}") for name, value in metrics.items()]
    return _table("Of the checkpoint, on the test images of its run (`metrics.json`):\n\n", rows)


def _check(facts: Mapping[str, Any], kind: str) -> str:
    told = "Codes of the checkpoint beside those of this file"
    if kind == "safetensors":
        told = "Every tensor is that of the checkpoint bit for bit; codes of both"
    return _table(f"## Check\n\n{told}:\n\n", facts["check"])


def _use(facts: Mapping[str, Any], kind: str) -> str:
    file, needs = "FOLDER", "with torch"
    if kind == "onnx":
        file, needs = "model.onnx", "without torch: onnxruntime, Pillow and NumPy"
    side, bits = facts["image_size"], facts["bits"]
    lines = [
        f"`razh` reads it {needs}; from the hub as `hf://OWNER/NAME`.\n",
        f"    razh encode photos/ --checkpoint {file} --out codes.npz\n",
        f'    import razh\n    codes = razh.load("{file}").encode(["new.jpg"])\n',
    ]
    if kind == "onnx":
        lines.append(
            f"Other programs: input `images`, uint8 (n, 3, {side}, {side}), RGB; output `logits` (n, {bits}); a bit is "
            "1 where its logit is at least 0.\n"
        )
    return "\n".join(lines)


_LICENCE = """\
## Licences

The code of razh is Apache-2.0. The licence of these weights is not known here: those of the backbone belong to who
trained it, and data sets to their authors; images of CUB-200-2011 and CIFAR-10 are for research use. Whoever shares
this folder has to look them up, and to name them above.
"""


def _table(title: str, rows: Any) -> str:
    return title + "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"
