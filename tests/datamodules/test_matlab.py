import builtins

import numpy as np
import pytest
from scipy.io import savemat

from razh.datamodules.files.matlab import read_variables, strings
from tests.fake import cells


def test_version_5(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.arange(6).reshape(2, 3), "names": cells(["a b", "", "c"])})
    found = read_variables(tmp_path / "a.mat", ("x", "names", "absent"))
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert strings(found["names"]) == ["a b", "", "c"]
    assert set(found) == {"x", "names"}


def write_version_73(path, h5py):
    """Write what `save(…, '-v7.3')` writes: axes in reverse, text as UTF-16 numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        x = file.create_dataset("x", data=np.arange(6).reshape(2, 3).T)
        x.attrs["MATLAB_class"] = np.bytes_("double")
        texts = [np.array([list("ä b".encode("utf-16-le"))], np.uint8).view("<u2").T, np.zeros(2, np.uint64)]
        held = [file.create_dataset(f"#refs#/{number}", data=text) for number, text in enumerate(texts)]
        for one in held:
            one.attrs["MATLAB_class"] = np.bytes_("char")
        held[1].attrs["MATLAB_empty"] = 1
        names = file.create_dataset("names", (1, 2), dtype=h5py.ref_dtype)
        names[0, 0], names[0, 1] = held[0].ref, held[1].ref
        names.attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")


def test_version_73(tmp_path):
    write_version_73(tmp_path / "a.mat", pytest.importorskip("h5py"))
    found = read_variables(tmp_path / "a.mat")
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["names"].shape == (2, 1)
    assert strings(found["names"]) == ["ä b", ""]


def test_version_73_without_its_reader(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"MATLAB 7.3 file .*pip install 'h5py>=3.10', or save it .*'-v7'"):
        read_variables(tmp_path / "a.mat")
