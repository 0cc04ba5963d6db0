"""Variables of MATLAB files: up to version 7.2 with SciPy, 7.3 (HDF5) with h5py where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_variables", "shapes_of", "strings"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
Array = NDArray[Any]
T = TypeVar("T")


def read_variables(path: Path, names: Collection[str] = ()) -> dict[str, Array]:
    """Read these variables of a MATLAB file, or all that are arrays; what the file lacks is left out.

    Arrays have MATLAB's shape in either version of the format, cells are object arrays of arrays, text is an array of
    one string.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read as a MATLAB file, or needs h5py.
    """
    if _is_hdf5(path):
        return _read_hdf5(path, names)
    from scipy.io import loadmat  # slow to import, and few files need it

    try:
        content = loadmat(path, variable_names=names or None)
    except Exception as error:  # a broken file makes SciPy raise half a dozen types
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}); fetch it again") from error
    return {name: np.asarray(value) for name, value in content.items() if not name.startswith("__")}


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all variables that are arrays, without unpacking any.

    Raises:
        FileNotFoundError, ValueError: See `read_variables`.
    """
    if _is_hdf5(path):
        return _with_hdf5(path, lambda file: {name: tuple(item.shape) for name, item in _datasets(file, ())})
    from scipy.io import whosmat

    try:
        return {name: tuple(shape) for name, shape, _ in whosmat(path)}
    except Exception as error:  # a broken file makes SciPy raise half a dozen types
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}); fetch it again") from error


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(520)
    return head.startswith((_HDF5, b"MATLAB 7.3")) or head.endswith(_HDF5)  # MATLAB puts 512 bytes in front


def strings(cells: Array) -> list[str]:
    """Return a cell array of text as a list; an empty cell is an empty string."""
    return ["".join(map(str, np.ravel(cell))) for cell in cells.ravel()]


def _read_hdf5(path: Path, names: Collection[str]) -> dict[str, Array]:
    return _with_hdf5(path, lambda file: {name: _value(file, item) for name, item in _datasets(file, names)})


def _datasets(file: Any, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name in names or file:
        if name in file and not name.startswith("#") and hasattr(file[name], "shape"):  # a group has none
            yield name, file[name]


def _with_hdf5(path: Path, read: Callable[[Any], T]) -> T:
    """Return what a function reads of an open HDF5 file."""
    try:
        import h5py
    except ImportError:
        raise ValueError(
            f"{path} is a MATLAB 7.3 file (HDF5), which needs h5py: pip install 'h5py>=3.10', "
            "or save it in MATLAB with save(…, '-v7')"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            return read(file)
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path} cannot be read as a MATLAB 7.3 file ({error}); fetch it again") from error


def _value(file: Any, dataset: Any) -> Array:
    """Return one dataset as SciPy would return the variable; MATLAB stores the axes of an array in reverse."""
    kind = dataset.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if dataset.attrs.get("MATLAB_empty", 0):  # what is stored is its shape
        return np.empty(tuple(int(size) for size in dataset[()]), dtype=object if kind == "cell" else np.float64)
    stored = np.asarray(dataset[()])
    stored = stored.T if kind else stored  # a file of another program than MATLAB has its axes as they are
    if kind == "cell":
        found = np.empty(stored.shape, dtype=object)
        for place in np.ndindex(stored.shape):
            found[place] = _value(file, file[stored[place]])
        return found
    if kind == "char":
        return np.array([row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in np.atleast_2d(stored)])
    if kind == "logical":
        return stored.astype(bool)
    if stored.dtype.names == ("real", "imag"):
        return np.asarray(stored["real"] + 1j * stored["imag"])
    return stored
