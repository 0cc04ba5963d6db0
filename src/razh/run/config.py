"""The configuration of a run, as plain values and as it is saved."""

from typing import Any
from weakref import WeakKeyDictionary

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

__all__ = ["plain", "saved_config"]

_dumped: WeakKeyDictionary[LightningArgumentParser, tuple[str, str]] = WeakKeyDictionary()


def plain(value: Any) -> Any:
    """Return a configuration as plain dicts, lists, numbers and strings."""
    if isinstance(value, Namespace):
        return {key: plain(v) for key, v in vars(value).items()}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def saved_config(parser: LightningArgumentParser, config: Any, *, fitting: bool) -> str:
    """Return a configuration as it is saved: what a run depends on, without where it works."""
    config = config.clone()
    config.run_dir, config.trainer.default_root_dir, config.checkpoint.dirpath = None, None, None
    config.search = None  # a space to choose from; what was chosen stands in the rest
    config.logger = None  # where a run was reported says nothing about it
    if "ckpt_path" in config and fitting:
        config.ckpt_path = None
    values = repr(plain(config))
    if _dumped.get(parser, ("", ""))[0] != values:  # asked for twice a run, and the parser is slow
        _dumped[parser] = values, parser.dump(config, skip_none=False)
    return _dumped[parser][1]
