"""What an exported network says of itself: where it lies, what is in `razh.json`, whether its file is whole; no torch.

A folder has `razh.json`, a file of weights, and a model card. What encoding needs is in the ONNX file, too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from razh.support.files import digest_of, read_json

if TYPE_CHECKING:
    from razh.run.checkpoint import Loaded

__all__ = [
    "CARD",
    "FACTS",
    "FORMAT",
    "WEIGHTS",
    "ClassFacts",
    "check_facts",
    "facts_beside",
    "from_text",
    "is_export",
    "to_text",
    "weights_of",
]

FORMAT = 1
FACTS, CARD = "razh.json", "README.md"
WEIGHTS = {"onnx": "model.onnx", "safetensors": "model.safetensors"}
_HUB = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a Path has one slash where a text has two
_NEEDED = {"bits": int, "image_size": int, "method": str, "checkpoint": str, "info": dict}


class ClassFacts(NamedTuple):
    """What is known of classes.

    Attributes:
        attributes: strengths (C, M) of all classes.
        looked_at: ids (T) of those whose images were looked at: trained on, or found in a collection.
        logits: what their images come to (T, L), NaN where nobody knows; None where nothing is known.
        names: of all classes; none, where nobody gave any.
    """

    attributes: NDArray[np.float32]
    looked_at: list[int]
    logits: NDArray[np.float32] | None = None
    names: Sequence[str] = ()

    @classmethod
    def of(cls, loaded: Loaded) -> ClassFacts:
        """Return what a checkpoint knows of classes; of a fitted code, also the described ones that it found."""
        method, names = loaded.method, [str(name) for name in loaded.info.get("class_names") or []]
        strengths, code = method.class_attributes.cpu().float().numpy(), method.collection
        if code is None:
            return cls(strengths, method.train_classes.tolist(), loaded.class_logits, names)
        ids, centres = code.of_classes()
        described = [name for name in loaded.info.get("collection", {}).get("described", ()) if name not in names]
        # The ids of described classes that only the table names go on from the others'; some may not have been found.
        first, found = len(names), sorted(label for label in ids if label >= len(names))
        names += [described[label - first] for label in found]
        ids = [label if label < first else first + found.index(label) for label in ids]
        if len(code.attributes):
            new = len(names) - len(strengths)
            strengths = np.concatenate([strengths, np.zeros((new, strengths.shape[1]), np.float32)])
            strengths[ids] = code.attributes.cpu().numpy()
        return cls(strengths, ids, centres.numpy(), names)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        logits = {} if self.logits is None else {"logits": _plain(self.logits)}
        return {"attributes": _plain(self.attributes), "trained": self.looked_at, "names": list(self.names), **logits}

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> ClassFacts:
        """Return what `as_json` was given."""
        looked_at = [int(label) for label in found["trained"]]
        logits = _array(found["logits"]) if "logits" in found else None
        return cls(_array(found["attributes"]), looked_at, logits, found.get("names", ()))


def _plain(values: NDArray[np.float32]) -> dict[str, Any]:
    """Return an array as plain values: base64 of little-endian numbers, row by row."""
    return {"shape": list(values.shape), "values": base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")}


def _array(found: dict[str, Any]) -> NDArray[np.float32]:
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").astype(np.float32)
    return values.reshape(found["shape"])


def weights_of(path: Path) -> Path:
    """Return the file of a checkpoint or of an exported network.

    Args:
        path: that file itself, a folder that `razh export` wrote, or `hf://owner/name`, `hf://owner/name@revision`: the
            same folder on the Hugging Face hub, which is fetched once.

    Raises:
        FileNotFoundError: there is no such file, or the folder is none of `razh export`.
        ValueError: the folder is damaged.
        OSError: the hub cannot be reached, or has no such folder.
        ImportError: the package that asks the hub is missing.
    """
    if hub := _HUB.fullmatch(str(path)):
        path = _fetched(hub[1], hub[2])
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}; give a file such as runs/…/checkpoints/best.ckpt")
        return path
    if not (path / FACTS).is_file():
        raise FileNotFoundError(f"{path} is a folder without {FACTS}; give a checkpoint, or what `razh export` wrote")
    name = str(read_json(path / FACTS).get("weights"))
    if name not in WEIGHTS.values() or not (path / name).is_file():
        raise ValueError(f"{path} lacks its weights, {name}; export the checkpoint again")
    return path / name


def _fetched(name: str, revision: str | None) -> Path:
    """Return the folder of a hub's repository on this machine: our files of it, and no others."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(f'hf://{name} needs a package; pip install "huggingface_hub>=0.25"') from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[FACTS, CARD, *WEIGHTS.values()]))
    except Exception as error:  # of the hub, the network, the disk
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise OSError(
            f"hf://{name} cannot be fetched ({reason}); copy its folder here where there is no network, and name that"
        ) from None


def is_export(folder: Path) -> bool:
    """Whether a folder is one that `razh export` wrote."""
    try:
        return "format" in read_json(folder / FACTS) if (folder / FACTS).is_file() else False
    except ValueError:
        return False


def facts_beside(file: Path) -> dict[str, Any] | None:
    """Return what `razh.json` beside a file of weights says of it, after its bytes were checked; None if nothing.

    Raises:
        ValueError: the file is not the one that was exported, or the facts are damaged.
    """
    facts = read_json(file.with_name(FACTS))
    if facts.get("weights") != file.name:
        return None
    check_facts(facts, file)
    if digest_of(file) != facts.get("sha256"):
        raise ValueError(f"{file} is damaged: its SHA-256 is not that in {FACTS}; export or fetch it again")
    return facts


def check_facts(facts: dict[str, Any], file: Path) -> None:
    """Refuse facts of another format, or without what encoding needs.

    Raises:
        ValueError: they cannot be used; one line says why.
    """
    version = facts.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(f"{file} has format {version}, this razh reads {FORMAT}; upgrade razh")
    if wrong := [name for name, kind in _NEEDED.items() if not isinstance(facts.get(name), kind)]:
        raise ValueError(f"{file} does not say its {wrong[0]}; export the checkpoint again")


def to_text(facts: dict[str, Any]) -> str:
    """Return facts as text for the metadata of a file."""
    return json.dumps(facts, ensure_ascii=False)


def from_text(text: str | None, file: Path) -> dict[str, Any]:
    """Return facts from the metadata of a file.

    Raises:
        ValueError: there are none, or they cannot be used.
    """
    try:
        facts = json.loads(text or "")
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise ValueError(f"{file} is no network that `razh export` wrote")
    check_facts(facts, file)
    return facts
