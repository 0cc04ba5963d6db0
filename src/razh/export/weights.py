"""Checkpoints as safetensors: tensors alone in one file, what they mean in `razh.json` beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from razh.export.facts import FACTS, ClassFacts, facts_beside
from razh.run.checkpoint import Loaded, build, check_content

__all__ = ["load", "save"]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the tensors of a state; each in memory of its own, as the format has it."""
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in state.items()}, path)


def load(path: Path, device: str = "cpu") -> Loaded:
    """Build the method of an exported folder from its `.safetensors`; no code of it is run.

    Raises:
        ValueError: the file is not the one that was exported, there are no facts beside it, or they do not fit.
    """
    facts = facts_beside(path)
    if facts is None:
        raise ValueError(f"{path} has no {FACTS} beside it that names it; name the folder that `razh export` wrote")
    info: dict[str, Any] = facts["info"] | {"exported_from": facts["checkpoint"]}
    if not isinstance(info.get("schema"), int):
        raise ValueError(f"{path.with_name(FACTS)} is not of a checkpoint of razh; export the checkpoint again")
    try:
        state: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors has a type of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ValueError(f"{path} cannot be read ({reason}); export or fetch it again") from None
    check_content(info, state, path)
    loaded, known = build(info, state, path, device), facts.get("classes")
    if known is None or loaded.method.collection is not None:
        return loaded
    return replace(loaded, class_logits=ClassFacts.of_json(known).logits)
