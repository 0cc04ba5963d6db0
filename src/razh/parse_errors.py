"""jsonargparse's refusals in one line: the argument, its value, and the way out.

The parser explains itself over ten lines of nested types. This reads the facts out of that text; what it does not know
it passes on, put on one line.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

_UNKNOWN_OPTION = re.compile(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted")
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
        return _unknown(f"{prefix}.{option}", [f"{prefix}.{name}" for name in parameters(class_path)])
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


def _unknown(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"option {key} is unknown; {hint}`--help` lists them all"


def _unknown_in_file(group: str, text: str, arguments: list[str]) -> str:
    """Explain a configuration file whose `init_args` do not fit the class that an earlier file chose."""
    given, class_path = _GIVEN.search(text), _class_path(group, arguments)
    value = yaml.safe_load(given[1]) if given else None
    if class_path and isinstance(value, dict) and isinstance(value.get("init_args"), dict):
        known = parameters(class_path)
        for name in value["init_args"]:
            if name not in known:
                return _unknown(f"{group}.init_args.{name}", [f"{group}.init_args.{n}" for n in known])
    return f"{group}={given[1] if given else ''} does not fit {class_path or 'any class'}; `--help` lists its options"


def _class_path(group: str, arguments: list[str]) -> str | None:
    found = None
    for argument in arguments:
        file = Path(argument.partition("=")[2])
        if argument.startswith("--config=") and file.is_file():
            section = (yaml.safe_load(file.read_text()) or {}).get(group)
            found = section.get("class_path", found) if isinstance(section, dict) else found
    return found


def parameters(class_path: str) -> list[str]:
    """Return the names of a class's constructor arguments, those that it passes on to its bases included."""
    module, _, name = class_path.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    names: dict[str, None] = {}
    for base in owner.__mro__:
        if "__init__" in vars(base):
            signature = inspect.signature(vars(base)["__init__"])
            names |= dict.fromkeys(
                p.name for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            )
            if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
                break
    names.pop("self", None)
    return list(names)


def _readable(types: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types).replace("typing.", "").replace("NoneType", "null")
    text = re.sub(r"Literal\[(.*?)\]", r"one of \1", text)
    return text if "[" in text or "one of" in text else " or ".join(part.strip() for part in text.split(","))
