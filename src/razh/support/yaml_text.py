"""Text through YAML and back: what is text on a command line or in a file stays text.

YAML reads `no`, `010`, `1e3` or `2024-01-01` as something else, and its readers do not agree on what. Options that
hold names are therefore read as they are written, and every saved string is quoted that any reader would take for a
number.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from razh.datamodules.files.text import name_list

NAMES = "unseen_classes"
"""The option that holds names."""


class _Dumper(yaml.SafeDumper):
    """Quotes also what is a number to the reader but not to PyYAML's writer, such as 1e3."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?"), list("-+.0123456789")
)


def install() -> None:
    """Let the parser of the command line read and write YAML by `load` and `dump`."""
    from jsonargparse import set_dumper, set_loader  # slow to import, and other commands need it not

    set_loader("omegaconf", load, (yaml.YAMLError,))
    set_dumper("yaml", dump)


def dump(data: Any) -> str:
    """Return data as YAML that every reader reads as the same data."""
    text: str = yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    return text


def load(text: str) -> Any:
    """Return what YAML holds, references resolved as OmegaConf does."""
    from jsonargparse import get_loader
    from omegaconf import OmegaConf

    plain = get_loader("yaml")(text)
    if not isinstance(plain, dict | list):
        return plain
    resolved = OmegaConf.to_object(OmegaConf.load(io.StringIO(with_names(text))))
    return plain if resolved == {text: None} else resolved


def with_names(text: str) -> str:
    """Return YAML in which the values of the option that holds names are quoted as they are written."""
    if NAMES not in text:
        return text
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for scalar in _names_in(root, below=False):
        scalar.tag, scalar.style = "tag:yaml.org,2002:str", "'"
    quoted: str = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True)
    return quoted


def _names_in(node: yaml.Node | None, below: bool) -> Iterator[yaml.ScalarNode]:
    """Yield the scalars below the option that holds names; an empty value stays nothing."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _names_in(value, below or str(key.value).rpartition(".")[2] == NAMES)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _names_in(value, below)
    elif isinstance(node, yaml.ScalarNode) and below and node.value:
        yield node


def as_list(value: str) -> str:
    """Return the names that an option holds as a list that YAML reads as text; see `name_list`.

    A plain number stays as it is: elsewhere an option of that name is a count.
    """
    return value if re.fullmatch(r"0|[1-9][0-9]*", value) else json.dumps(name_list(value), ensure_ascii=False)
