"""`razh inspect`: what a checkpoint is, without running anything in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from razh.support.terminal import Parser, Status, console, suggest

__all__ = ["describe", "main"]

_EPILOG = """\
The file is read as plain values and tensors, to its last byte and against its checksums; code in it is never run.

examples:
  razh inspect runs/cub/razh/64/seed0/checkpoints/best.ckpt
  razh inspect best.ckpt --json > best.json
"""


def main(argv: list[str]) -> int:
    """Run `razh inspect`: print what a checkpoint says of itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, no checkpoint of razh, or of a version that cannot be read.
    """
    options = _parser().parse_args(argv)
    found = describe(options.checkpoint)
    out = console()
    if options.json:
        out.print(json.dumps(found, indent=1))
        return Status.DONE
    for name, value in found.items():
        if name != "model":
            out.print(f"{name.replace('_', ' '):<18} {_shown(value)}")
    out.print("\nmodel:")
    out.print(yaml.safe_dump(found["model"], sort_keys=False), end="")
    suggest("inspect", *argv, "--json")
    return Status.DONE


def describe(path: Path) -> dict[str, Any]:
    """Return the facts of a checkpoint as plain values.

    Raises:
        FileNotFoundError, ValueError: see `razh.run.checkpoint.read`.
    """
    from razh.run import checkpoint  # torch and timm: `--help` need not wait for them

    content = checkpoint.read(path)
    info, state = content["razh"], content["state_dict"]
    callbacks = content.get("callbacks", {})
    states = next((c["random"] for c in callbacks.values() if isinstance(c, dict) and "random" in c), None)
    scores = [c.get("best_model_score") for c in callbacks.values() if isinstance(c, dict)]
    return {
        "file": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 3),
        "schema": info["schema"],
        "razh": info.get("version"),
        "lightning": content.get("pytorch-lightning_version"),
        "epoch": content.get("epoch"),
        "step": content.get("global_step"),
        "best_score": next((float(score) for score in scores if score is not None), None),
        "resumes_exactly": "no" if states is None else f"with {len(states)} process" + "es" * (len(states) > 1),
        "values": sum(tensor.numel() for tensor in state.values()),
        "dataset": info.get("dataset"),
        "image_size": info.get("image_size"),
        "split_protocol": info.get("split_protocol"),
        "split_fingerprint": info.get("split_fingerprint"),
        "progress": info.get("progress"),
        **{name: info[name] for name in ("refit", "collection") if name in info},
        "class_names": info.get("class_names", []),
        "attribute_names": info.get("attribute_names", []),
        "model": info.get("model"),
    }


def _shown(value: Any) -> str:
    if isinstance(value, list):
        few = ", ".join(str(item) for item in value[:6])
        return f"{len(value)}: {few}{', …' if len(value) > 6 else ''}" if value else "0"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else "–" if value is None else str(value)


def _parser() -> Parser:
    parser = Parser("inspect", "Show what is in a checkpoint.", _EPILOG)
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of `razh train`")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser
