"""jsonargparse's refusals in one line: the argument, its value, and the way out.

The parser explains itself over ten lines of nested types. This reads the facts out of that text; what it does not know
it passes on, put on one line.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from razh.support.terminal import did_you_mean

RENAMED = {
    "part_responses": "code.responses",
    "hash_classifier": "code.classifier",
    "classifier": "code.feature_classifier",
    "parts": "parts.count",
    "granularity": "parts.granularity",
    "own_threshold": "matching.threshold",
    "branch_images": "mixing.images",
    **{
        name: f"code.{name}"
        for name in (
            "margin",
            "scale",
            "contrast_below",
            "contrast_temperature",
            "straight_through",
            "posteriors",
            "similarity_space",
            "attribute_share",
            "untrained_attribute_share",
            "enough_classes",
        )
    },
    **{f"part_{name}": f"parts.{name}" for name in ("init", "temperature", "centres", "assignment")},
    **{name: f"parts.{name}" for name in ("background_centres", "background_share")},
    **{f"attribute_{name}": f"matching.{name}" for name in ("strength", "choice")},
    **{f"match_{name}": f"matching.{name}" for name in ("temperature", "balance", "gumbel")},
    **{
        name: f"mixing.{name}"
        for name in ("replaced_share", "replaced_threshold", "ramp_epochs", "hidden_share", "target", "target_side")
    },
}
"""Where options of RAZH that had no group are found now; a weight NAME_weight is `weights.NAME`."""
_UNKNOWN_OPTION = re.compile(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted")
_UNKNOWN_IN_GROUP = re.compile(
    r"Problem with given class_path '([\w.]+)':\s+(?:unrecognized arguments: --([\w.]+)"
    r"|Group '([\w.]+)' does not accept option '([\w.]+)')"
)
_NO_GROUP = re.compile(
    r"Problem with given class_path '([\w.]+)':\s+Parser key \"(\w+)\":\s+Unable to load config '(.*)'"
)
_BAD_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':\s+(.+)")
_FROM_CONSTRUCTOR = re.compile(r"Errors:\s+- (.+?)\s*\n\s+- Expected", re.DOTALL)
_UNKNOWN_KEY = re.compile(r"(?:does not accept option|[Uu]nrecognized arguments:|Key) '?(?:--)?([\w.]+)'?")
_PARSER_KEY = re.compile(r'Parser key "([\w.]+)"')
_NESTED_KEY = re.compile(r"NestedArg\(key='([\w.]+)'")
_WANTED = re.compile(r"Expected a (.+?)\. Got value: (.*)")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_GIVEN = re.compile(r"Given value: (.*)")


def explain(text: str, options: Iterable[str], arguments: list[str]) -> str:
    """Return one line for a parser's message.

    Args:
        text: the message.
        options: long option names that the parser has, without dashes.
        arguments: the command line, for the class paths in its configuration files.
    """
    keys = _PARSER_KEY.findall(text)
    nested = _NESTED_KEY.search(text)
    path = ".".join([keys[0], nested[1]]) if keys and nested else ".".join(dict.fromkeys(keys))
    unknown = _UNKNOWN_OPTION.findall(text)
    if unknown:
        class_path, option = unknown[-1]
        prefix = path.rpartition(".")[0] if nested else path
        return _unknown_of(class_path, prefix, option)
    if in_group := _UNKNOWN_IN_GROUP.search(text):
        class_path, option, group, name = in_group.groups()
        return _unknown_of(class_path, keys[0], option or f"{group}.{name}")
    if no_group := _NO_GROUP.search(text):
        class_path, group, value = no_group.groups()
        names = [name for name in parameters(class_path) if name.startswith(f"{group}.")]
        return f"{keys[0]}.{group}={value} is refused; it is a group: give {', '.join(f'{keys[0]}.{n}' for n in names)}"
    if "Not a valid subclass" in text and keys:
        return _unknown_in_file(keys[0], text, arguments)
    wanted = _WANTED.search(text)
    if wanted:
        return f"{path}={wanted[2]} is refused; give {_readable(wanted[1])}"
    bad_class = _BAD_CLASS.findall(text)
    if bad_class:
        return f"{path}={bad_class[-1][0]} cannot be used: {bad_class[-1][1]}"
    subtypes, given = _SUBTYPES.search(text), _GIVEN.search(text)
    if subtypes and given and keys and "class_path" not in text:
        return f"{path}={given[1]} is refused; give {_readable(subtypes[1])}"
    key = _UNKNOWN_KEY.search(text)
    if key and ("accept option" in text or "nrecognized" in text):
        return _unknown(key[1], options)
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def unwrap(text: str) -> str:
    """Return what a constructor said, where the parser has wrapped it into its own story of types and values."""
    found = _FROM_CONSTRUCTOR.search(text) if "Does not validate against any of the Union subtypes" in text else None
    return found[1] if found else text


def _unknown_of(class_path: str, prefix: str, option: str) -> str:
    """Explain an option that a class does not have; `prefix` is what stands in front of the class's options."""
    known = parameters(class_path)
    moved = RENAMED.get(option, f"weights.{option.removesuffix('_weight')}")
    if moved in known:
        return f"option {prefix}.{option} is unknown; it is {prefix}.{moved} now"
    return _unknown(f"{prefix}.{option}", [f"{prefix}.{name}" for name in known])


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"option {key} is unknown; {did_you_mean(key, known)}`--help` lists them all"


def _unknown_in_file(group: str, text: str, arguments: list[str]) -> str:
    """Explain a configuration file whose `init_args` do not fit the class that an earlier file chose."""
    given, class_path = _GIVEN.search(text), _class_path(group, arguments)
    value = yaml.safe_load(given[1]) if given else None
    if class_path and isinstance(value, dict) and isinstance(value.get("init_args"), dict):
        known = parameters(class_path)
        for name in value["init_args"]:
            if name not in known:
                return _unknown_of(class_path, f"{group}.init_args", name)
    return f"{group}={given[1] if given else ''} does not fit {class_path or 'any class'}; `--help` lists its options"


def _class_path(group: str, arguments: list[str]) -> str | None:
    found = None
    for argument in arguments:
        file = Path(argument.partition("=")[2])
        if argument.startswith("--config=") and file.is_file():
            section = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get(group)
            found = section.get("class_path", found) if isinstance(section, dict) else found
    return found


def parameters(class_path: str) -> list[str]:
    """Return the names of a class's constructor arguments, those that it passes on to its bases included.

    Of an argument that is a group of options, each option's name follows, `group.option`.
    """
    module, _, name = class_path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    names: dict[str, None] = {}
    for base in owner.__mro__:
        if "__init__" in vars(base):
            signature = inspect.signature(vars(base)["__init__"])
            for p in signature.parameters.values():
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                    group = dataclasses.fields(p.default) if dataclasses.is_dataclass(p.default) else ()
                    names |= dict.fromkeys([p.name, *(f"{p.name}.{option.name}" for option in group)])
            if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
                break
    names.pop("self", None)
    return list(names)


def _readable(types: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types).replace("typing.", "").replace("NoneType", "null")
    text = re.sub(r"Literal\[(.*?)\]", r"one of \1", text)
    return text if "[" in text or "one of" in text else " or ".join(part.strip() for part in text.split(","))
