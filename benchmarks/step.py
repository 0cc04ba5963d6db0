"""What each branch of RAZH costs: a training step with more and more of it on, relative to CE's step on the same trunk.

A step is the loss terms, their gradient and AdamW, on made-up data of CUB's size (150 training classes and 312
attributes); loading is left out, and so is Lightning, which costs every method alike. On a CPU the processor time of
one thread, on a GPU the time on the clock; interleaved rounds, medians. Ratios from one run are the message; seconds
belong to one machine.

    python benchmarks/step.py --quick
    python benchmarks/step.py --write docs/explanation/razh.md
    python benchmarks/step.py --device cuda --trunks vit-small --batch 64
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from razh.backbones.timm import TimmBackbone
from razh.method import HashingMethod
from razh.methods.ce import CE
from razh.methods.razh import RAZH

CLASSES, SEEN, ATTRIBUTES, BITS = 200, 150, 312, 64
START, END = "<!-- step benchmark: begin -->", "<!-- step benchmark: end -->"
AIM, AIMED = 1.5, "+ replacement, the mixed image hashed"


@dataclass(frozen=True)
class Trunk:
    """A network, cut as in one of the files below experiments/backbone, and the size of its images."""

    title: str
    name: str
    split: int
    freeze: str
    image_size: int = 224


TRUNKS = {
    "vit-tiny": Trunk("ViT-Ti/16, all of it trained", "vit_tiny_patch16_224", 0, "none"),
    "vit-small": Trunk("ViT-S/16, all of it trained", "vit_small_patch16_224", 0, "none"),
    "lite0": Trunk("EfficientNet-Lite0, cached trunk, last stages trained", "tf_efficientnet_lite0", 6, "trunk"),
    "lite0-frozen": Trunk("EfficientNet-Lite0, frozen and cached", "tf_efficientnet_lite0", 6, "all"),
    "test-vit": Trunk("timm's test_vit at 64 pixels, all of it trained", "test_vit", 0, "none", 64),
}
DEFAULT = ("vit-tiny", "lite0", "lite0-frozen")

GROUPS = 28  # parts that CUB's attributes name
PART_TERMS = ("attributes", "orthogonality", "presence", "background", "entropy", "smoothness")
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (  # what is added, and the terms that do
    ("RAZH, hash terms only", ()),
    ("+ parts, attributes read there, and their terms", PART_TERMS),
    ("+ matching and alignment", ("alignment",)),
    (AIMED, ("mix_hash",)),
    ("+ mix branch: the replaced pixels rebuilt", ("mix",)),
    ("+ reconstruction branch", ("reconstruction",)),
)
SWITCHED = tuple(term for _, terms in STEPS for term in terms)


def methods(trunk: Trunk, batch: int) -> dict[str, Callable[[], HashingMethod]]:
    """Return what builds CE and the stages of RAZH; of the terms that are switched, one is on or off."""
    shared = max(batch // 4, 1)  # 16 of 64, the default
    found: dict[str, Callable[[], HashingMethod]] = {"CE": lambda: CE(**_arguments(trunk))}
    on: tuple[str, ...] = ()
    for name, terms in STEPS:
        on += terms
        weights = {term: float(term in on) for term in SWITCHED}
        # No weights are fetched, but the networks stand for trained ones: one layer of context, and no part responses.
        groups = {
            "weights": weights,
            "parts": {"learning_share": 0.0, "context": 1},
            "mixing": {"ramp_epochs": 0.0, "images": shared},
            "code": {"responses": "none"},
        }
        found[name] = lambda groups=groups: RAZH(**_arguments(trunk), **groups)  # type: ignore[misc]
    return found


def _arguments(trunk: Trunk) -> dict[str, Any]:
    torch.manual_seed(0)
    attributes = torch.rand(CLASSES, ATTRIBUTES)
    seen = torch.arange(SEEN)
    return {
        "backbone": TimmBackbone(trunk.name, trunk.split, trunk.image_size, freeze=trunk.freeze),  # type: ignore[arg-type]
        "class_attributes": attributes,
        "attribute_vectors": attributes[seen].T.contiguous(),
        "train_classes": seen,
        "attribute_groups": torch.arange(ATTRIBUTES) % GROUPS,
        "bits": BITS,
    }


def make_batch(trunk: Trunk, method: HashingMethod, size: int) -> dict[str, Tensor]:
    """Return made-up images, or what the cache of a frozen trunk has."""
    generator = torch.Generator().manual_seed(1)
    shape = (size, 3, trunk.image_size, trunk.image_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    batch = {"label": torch.arange(size) % SEEN, "index": torch.arange(size)}
    backbone = method.backbone
    if not backbone.caches:
        return batch | {"image": images}
    patches = torch.randn(size, backbone.prefix + backbone.num_patches, backbone.dim, generator=generator)
    batch |= {"patches": patches.half(), "thumbnail": images[:, :, ::2, ::2].contiguous()}
    if "feature" in backbone.caches:
        batch["feature"] = torch.randn(size, backbone.feature_dim, generator=generator).half()
    return batch


def make_step(build: Callable[[], HashingMethod], trunk: Trunk, size: int, device: str) -> Callable[[], None]:
    """Return a training step, on a model of its own."""
    method = build().to(device).train()
    batch = {name: value.to(device) for name, value in make_batch(trunk, method, size).items()}
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(method.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def measure(trunk: Trunk, size: int, rounds: int, device: str) -> dict[str, float]:
    """Return the seconds of a step by method: medians of interleaved rounds, after one that is not counted."""
    clock = time.process_time if device == "cpu" else time.perf_counter  # others may use the processor, too
    steps = {name: make_step(build, trunk, size, device) for name, build in methods(trunk, size).items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    repeat = dict.fromkeys(steps, 1)
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            for _ in range(repeat[name]):
                step()
            times[name].append((clock() - start) / repeat[name])
        if number == 0:  # short steps are repeated, so that the clock has something to see
            repeat = {name: max(1, round(0.2 / taken[0])) for name, taken in times.items()}
            times = {name: [] for name in steps}
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(results: dict[str, dict[str, float]], size: int) -> list[str]:
    """Return a Markdown table: times as long as CE's step, and in brackets what the row adds."""
    heads = [f"{TRUNKS[trunk].title} (CE: {1000 * result['CE']:.3g} ms)" for trunk, result in results.items()]
    lines = [f"| batch of {size} | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    before = dict.fromkeys(results, 1.0)
    for name in next(iter(results.values())):
        if name == "CE":
            continue
        cells = []
        for trunk, result in results.items():
            ratio = result[name] / result["CE"]
            cells.append(f"{ratio:.2f}× ({ratio - before[trunk]:+.2f})")
            before[trunk] = ratio
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def verdict(results: dict[str, dict[str, float]]) -> list[str]:
    """Say where the aim is reached: parts, matching and replacement, both branches off."""
    ratios = {TRUNKS[trunk].title: result[AIMED] / result["CE"] for trunk, result in results.items()}
    said = [f"{title}: {ratio:.2f}× ({'reached' if ratio <= AIM else 'missed'})" for title, ratio in ratios.items()]
    return [f"Aim: parts, matching and replacement within {AIM}× of CE, both branches off. {'; '.join(said)}.", ""]


def machine(device: str) -> str:
    """Return processor, device and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{models[0] if models else platform.processor()}, one thread"
    where = torch.cuda.get_device_name() if device != "cpu" else processor
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__}"


def write(path: Path, lines: list[str]) -> None:
    """Put the lines between the markers of a Markdown file; at its end if it has none yet."""
    text = path.read_text(encoding="utf-8")
    if START not in text:
        text = f"{text.rstrip()}\n\n## What a step costs\n\n{START}\n{END}\n"
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    path.write_text(head + START + "\n\n" + "\n".join(lines) + "\n" + END + tail, encoding="utf-8")


def _pin_one_thread() -> None:
    """Start again with one thread where the environment does not say so: BLAS reads it when it is loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    if any(os.environ.get(name) != "1" for name in names):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(names, "1")})


def main() -> None:
    """Measure, print the table, and write it on demand."""
    options = _parser().parse_args()
    if options.device == "cpu":
        _pin_one_thread()
        torch.set_num_threads(1)
    trunks = options.trunks or (["test-vit"] if options.quick else list(DEFAULT))
    results = {}
    for trunk in trunks:
        results[trunk] = measure(TRUNKS[trunk], options.batch, options.rounds, options.device)
        print(f"{trunk}: " + ", ".join(f"{name} {value:.3g} s" for name, value in results[trunk].items()), flush=True)
    command = f"`python benchmarks/step.py {' '.join(sys.argv[1:])}`".replace(" `", "`")
    lines = [command, "", f"{machine(options.device)}.", "", *table(results, options.batch), *verdict(results)]
    print("\n".join(lines))
    if options.write:
        write(Path(options.write), lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A training step of RAZH, branch by branch, relative to CE's.")
    parser.add_argument("--quick", action="store_true", help="a tiny network only")
    parser.add_argument("--trunks", nargs="+", choices=TRUNKS, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--batch", type=int, default=32, help="images; a quarter of them passes through the branches")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--write", metavar="FILE.md", help="put the table between the markers of this file")
    return parser


if __name__ == "__main__":
    main()
