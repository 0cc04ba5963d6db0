"""Thousands of damaged files of every format: each is decoded or refused in one line, and nothing else happens.

They are decoded in a process of its own, for a decoder that fails takes its process along, and with little memory.
"""

import io
import json
import random
import resource
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from razh.datamodules.images import image_problem, read_image
from tests.processes import forked

DAMAGES = 40  # of each undamaged file
MEGAPIXELS = 1.0
MEMORY = 256 << 20  # bytes, beside what the process has before
SECONDS = 300  # a hang, not a slow machine


def undamaged():
    """Return small files (suffix, bytes) of every format and mode that Pillow writes."""
    y, x = np.mgrid[:17, :23]
    noise = np.random.default_rng(0).integers(0, 20, (17, 23, 3))
    colour = Image.fromarray((np.stack([x * 9, y * 13, x * y % 200], -1) + noise).clip(0, 255).astype(np.uint8))
    deep = Image.fromarray((x * y * 150).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    more = {"save_all": True}
    wanted = [
        *((".jpg", mode, {}) for mode in ("RGB", "L", "CMYK")),
        (".jpg", "RGB", {"progressive": True, "exif": exif, "icc_profile": b"x" * 300}),
        (".jpg", "RGB", {"restart_marker_blocks": 1, "subsampling": 2}),
        (".mpo", "RGB", more),
        *((".png", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        (".png", "RGB", {"exif": exif, "transparency": (9, 13, 2)} | more),
        (".png", "P", {"transparency": bytes(range(200))}),
        *((".tif", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")),
        *((".tif", "RGB", {"compression": kind}) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        (".tif", "1", {"compression": "group4"}),
        (".tif", "RGB", more),
        (".gif", "RGB", {}),
        (".gif", "P", {"transparency": 2} | more),
        *((".webp", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (True, False)),
        (".webp", "RGB", {"exif": exif} | more),
        *((".bmp", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *((".ppm", mode, {}) for mode in ("1", "L", "RGB", "I;16", "F")),
        *((suffix, "RGB", {}) for suffix in (".dib", ".ico", ".pcx", ".sgi", ".tga")),
    ]
    if features.check("jpg_2000"):
        wanted += [(".jp2", mode, {}) for mode in ("L", "RGBA")] + [(".j2k", "RGB", {"tile_size": (8, 8)})]
    if features.check("avif"):
        wanted += [(".avif", "RGBA", {"speed": 10}), (".avif", "RGB", {"speed": 10, "exif": exif})]
    Image.init()
    for suffix, mode, how in wanted:
        file = io.BytesIO()
        if Image.registered_extensions()[suffix] in Image.SAVE:
            picture = deep if mode == "I;16" else colour.convert(mode)
            others = {"append_images": [colour.rotate(180)]} if "save_all" in how else {}
            picture.save(file, Image.registered_extensions()[suffix], **how, **others)
            yield suffix, file.getvalue()
    psd = b"8BPS\0\1" + bytes(6) + bytes([0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 8, 0, 3]) + bytes(14) + bytes(range(60))
    yield from ((".psd", psd), (".ppm", b"P3\n4 3\n255\n" + b"7 " * 36), (".pbm", b"P1\n4 2\n1 0 1 0 1 1 0 0\n"))


def damaged(content, heads, choose):
    """Return the bytes with one to three damages: flipped bits, cut tails, false headers, absurd numbers."""
    found = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 3))):
        at = choose.randrange(max(1, min(len(found), choose.choice((16, 60, len(content))))))
        few = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 20)))
        match choose.randrange(9):
            case 0 | 1:
                found[at : at + 1] = bytes([found[at] ^ 1 << choose.randrange(8)]) if found else b""
            case 2:
                del found[choose.randrange(len(found) + 1) :]
            case 3:
                number = choose.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 65_000, 900))
                found[at : at + 4] = number.to_bytes(4, choose.choice(("big", "little")))
            case 4:
                found[at:at] = few
            case 5:
                del found[at : at + len(few)]
            case 6:
                found[at : at + len(few)] = bytes(len(few))
            case 7:
                found[:16] = choose.choice(heads)
            case 8:
                found[at : at + len(few)] = few
    return bytes(found)


def decode_all(folder: Path) -> None:
    """Damage and decode; write to the folder which file was the last, and at the end what was wrong with any."""
    torch.set_num_threads(1)
    files = list(undamaged())
    read_image(_written(folder, *files[0]))  # loads what decoders need
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    heads = [content[:16] for _, content in files] + [b"%!PS-Adobe-3.0 EP", b"GIF89a" + bytes(10), bytes(16)]
    wrong, outcomes = [], {"decoded": 0, "refused": 0}
    for number, (suffix, content) in enumerate(files):
        stubs = [content[:length] for length in (0, 1, 8, 74)]
        for seed, bytes_ in enumerate([*stubs, *(damaged(content, heads, random.Random(s)) for s in range(DAMAGES))]):
            (folder / "last").write_text(f"damage {seed} of file {number}, {suffix}")
            problem, refusal = _outcome(_written(folder, suffix, bytes_))
            outcomes["refused" if refusal else "decoded"] += 1
            if (problem is None) != (refusal is None):
                wrong.append(f"damage {seed} of file {number}, {suffix}: {refusal}, but checked: {problem}")
            if refusal and ("\n" in refusal or " at 0x" in refusal or f"a{suffix}" not in refusal):
                wrong.append(f"damage {seed} of file {number}, {suffix}: {refusal!r}")
    (folder / "outcome.json").write_text(json.dumps({"wrong": wrong, **outcomes}))


def _written(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    return path


def _outcome(path: Path) -> tuple[str | None, str | None]:
    """Return what the check says of a file, and how decoding refuses it."""
    problem = image_problem(path, max_megapixels=MEGAPIXELS)
    try:
        image = read_image(path, max_megapixels=MEGAPIXELS)
    except OSError as error:
        return problem, str(error)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return problem, None


def test_damaged_files_are_decoded_or_refused_in_one_line(tmp_path):
    process = forked(decode_all, tmp_path)
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 0, (tmp_path / "last").read_text()
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["wrong"] == []
    assert outcome["decoded"] + outcome["refused"] >= 2_000
    assert min(outcome["decoded"], outcome["refused"]) > 300


def test_undamaged_files_are_decoded(tmp_path):
    for suffix, content in undamaged():
        problem, refusal = _outcome(_written(tmp_path, suffix, content))
        assert problem == refusal
        assert refusal is None or "no 8 or 16 bits" in refusal
