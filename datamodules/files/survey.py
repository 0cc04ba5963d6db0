"""What a folder of classes and its table hold, and all that is wrong with them, found in a second: no image is decoded.

Nothing here needs torch, so that `razh check` starts at once.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from razh.datamodules.files.tables import ClassTable, inspect_class_table, some
from razh.datamodules.files.text import nfc
from razh.datamodules.files.walk import Walk, is_system

__all__ = ["Survey", "class_ids", "image_problems", "remarks", "survey"]

_MANY = 100  # names without a partner, beyond which none is guessed: that would take minutes
_BLOCK = 1 << 16  # bytes at either end of a file that tell it from others of its size


@dataclass(frozen=True)
class Survey:
    """A folder of classes and its table.

    Attributes:
        root: The folder.
        images: Names of the image files by the folder that they lie in, folders sorted.
        table: The table as far as it could be read; None without one.
        folder_of: The folder of each class of the table that has one.
        problems: One clause for everything that keeps the data set from being used.
        notes: One clause for everything that was taken for something else than it says.
        walk: The search of the class folders, and what it passed over.
    """

    root: Path
    images: Mapping[str, Sequence[str]]
    walk: Walk
    table: ClassTable | None = None
    folder_of: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def survey(root: Path, table_file: Path, partial: bool = False) -> Survey:
    """Look at the folders `root/CLASS/*` and the table of their attributes.

    Args:
        root: Folder with one folder of images for each class.
        table_file: The table, see `razh.datamodules.files.tables.inspect_class_table`.
        partial: Whether classes of the table may lack images.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"no class/image folders at {root}; pass --data_root=…, or train on --dataset=synthetic"
        )
    walk = Walk()
    images = {path.name: walk.images(path, below=False) for path in _folders_in(root)}
    unreadable = [f"{line}; change its permissions" for line in walk.unreadable]
    if wrong := _wrong_level(root, images):
        return Survey(root, images, walk, problems=(*unreadable, wrong))
    try:
        table = inspect_class_table(table_file, images)
    except (OSError, ValueError) as error:
        return Survey(root, images, walk, problems=(*unreadable, str(error)))
    folder_of, problems, notes = _pair(table.classes, images, table_file, root, partial)
    if not folder_of and {_key(name) for name in images} & {_key(name) for name in table.attributes}:
        problems = [f"{table_file} lies on its side: its columns are the classes; write one row a class"]
    empty = [name for name in folder_of.values() if not images[name]] if not partial else []
    problems += [f"folder {name!r} in {root} holds no images; add some, or delete it and its row" for name in empty]
    of_table = [f"{table_file.name}: {problem}" for problem in table.problems]
    notes = [*(f"{table_file.name}: {note}" for note in table.notes), *notes]
    return Survey(root, images, walk, table, folder_of, (*unreadable, *of_table, *problems), tuple(notes))


# ---------------------------------------------------------------------------------------------------------- folders


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_system(path.name))


def _wrong_level(root: Path, images: Mapping[str, Sequence[str]]) -> str | None:
    """Return why `root` seems to be another folder than the one that holds the classes; None if it does not."""
    if any(images.values()):
        return None
    if own := len(Walk().images(root, below=False)):
        return f"images lie in {root} itself ({own}); give its parent if it is one class, else make a folder a class"
    if deeper := Walk().images(root):
        folder = (root / deeper[0]).parent
        return f"{root} holds no class folders, but {folder.parent} does ({folder.name}, …); give that one"
    return f"{root} holds no images; put those of each class into a folder {root}/CLASS"


# ------------------------------------------------------------------------------------------------------------ names


def _key(name: str) -> str:
    """Return a name without what people and systems change by the way: case, width, blanks, composition of accents."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _bare(name: str) -> str:
    """Return a name without accents and punctuation, to guess what was meant."""
    apart = unicodedata.normalize("NFKD", name).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in apart if not unicodedata.combining(c)).split())


def _meant(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean …?)` for the name that is nearest to this one, nothing for none."""
    bare = {_bare(other): other for other in names}
    close = difflib.get_close_matches(_bare(name), bare, n=1, cutoff=0.7) if len(bare) <= _MANY else []
    return f" (did you mean {bare[close[0]]!r}?)" if close else ""


def _pair(
    classes: Sequence[str], folders: Iterable[str], table_file: Path, root: Path, partial: bool
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the folder of each class, what keeps others from having one, and which pairs are spelt in two ways."""
    composed: dict[str, list[str]] = defaultdict(list)
    for name in folders:
        composed[nfc(name)].append(name)
    problems = [
        f"two folders in {root} are named {names[0]!r}, with accents written in two ways; join them"
        for names in composed.values()
        if len(names) > 1
    ]
    found = {name: composed[name][0] for name in classes if name in composed}
    rows, free = _by_key(set(classes) - set(found)), _by_key(set(composed) - set(found))
    spelt = {key: (rows[key][0], free[key][0]) for key in rows if len(rows[key]) == len(free.get(key, ())) == 1}
    found |= {row: composed[folder][0] for row, folder in spelt.values()}
    notes = []
    if spelt:
        pairs = [f"{row!r} = {folder!r}" for row, folder in sorted(spelt.values())]
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        notes = [f"rows that are spelt otherwise than their folders are taken for them: {', '.join(pairs[:3])}{more}"]
    without_folder = [name for name in dict.fromkeys(classes) if name and name not in found]
    without_row = sorted(name for key, names in free.items() if key not in spelt for name in names)
    if classes and not found and not partial:
        return found, [*problems, _strangers(table_file, root, without_folder, without_row)], notes
    problems += [
        f"folder {name!r} in {root} has no row in {table_file}{_meant(name, without_folder)}; add its attributes, or "
        "move the folder away"
        for name in without_row
    ]
    if not partial:
        problems += [
            f"class {name!r} of {table_file} has no folder in {root}{_meant(name, without_row)}; add its images, or "
            "pass --data.allow_partial=true"
            for name in without_folder
        ]
    return found, problems, notes


def _by_key(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[_key(name)].append(name)
    return groups


def _strangers(table_file: Path, root: Path, classes: Sequence[str], folders: Sequence[str]) -> str:
    return (
        f"no row of {table_file} names a folder of {root} (rows: {some(classes)}; folders: {some(folders)}); "
        "write the folders' names into its first column"
    )


def class_ids(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of classes; case and blanks do not matter where one class alone is meant.

    Raises:
        ValueError: There is no class of a name, or several; all such names are in the message.
    """
    exact, loose = {nfc(name): i for i, name in enumerate(classes)}, _by_key(classes)
    found, wrong = [], []
    for name in dict.fromkeys(map(nfc, names)):
        alike = loose.get(_key(name), [])
        if name in exact:
            found.append(exact[name])
        elif len(alike) == 1:
            found.append(exact[nfc(alike[0])])
        else:
            wrong.append(f"{name!r}{_meant(name, classes)}")
    if wrong:
        raise ValueError(
            f"unseen_classes names {', '.join(wrong[:5])}{', …' * (len(wrong) > 5)}, but the classes are "
            f"{', '.join(classes[:5])}{', …' * (len(classes) > 5)}; correct the name, or the path of a file of names"
        )
    return tuple(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------- what else to know


def remarks(found: Survey) -> list[str]:
    """Return what a user should know before training, though it keeps nothing from being used."""
    lines = [f"folder {name!r} holds one image" for name, files in found.images.items() if len(files) == 1]
    lines += found.walk.left_out
    if own := len(Walk().images(found.root, below=False)) if found.table is not None else 0:
        lines.append(f"images beside the class folders are not taken: {own}")
    if found.walk.kinds:
        lines.append(found.walk.others())
    if found.table is not None and len(found.table.classes) > 1:
        values = found.table.values
        constant = np.flatnonzero((values == values[:1]).all(axis=0))
        if len(constant):
            names = some([found.table.attributes[column] for column in constant])
            lines.append(f"attributes that are the same for all classes tell nothing: {names}")
    return lines


def image_problems(found: Survey) -> list[str]:
    """Return the images whose header is that of no image, and those that lie in two classes. Nothing is decoded."""
    lines, alike = [], defaultdict(list)
    for name, files in found.images.items():
        for file in files:
            path = found.root / name / file
            if problem := _header_problem(path):
                lines.append(problem)
            else:
                alike[path.stat().st_size].append(path)
    for paths in alike.values():
        lines += _twins(paths) if len(paths) > 1 else []
    return lines


def _header_problem(path: Path) -> str | None:
    from PIL import Image

    try:
        if not path.stat().st_size:
            return f"image file {path} is empty; delete it"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large photo is no fault
            Image.open(path).close()
        return None
    except Image.DecompressionBombError:
        return f"image file {path} claims to be larger than a photo can be; delete it, or make it smaller"
    except Exception:  # a damaged header makes Pillow raise a dozen types
        return f"image file {path} begins like no image; fetch it again, or delete it"


def _twins(paths: Sequence[Path]) -> list[str]:
    """Return, of files of one size, those of one content that lie in different classes."""
    groups = defaultdict(list)
    for path in paths:
        with path.open("rb") as file:
            ends = [file.read(_BLOCK)]
            file.seek(-min(_BLOCK, path.stat().st_size), os.SEEK_END)
            ends.append(file.read())
        groups[hashlib.sha256(b"".join(ends)).digest()].append(path)
    return [
        f"{first} and {other} are one image in two classes; delete one of them"
        for first, *rest in groups.values()
        for other in rest
        if other.parent != first.parent
    ]
