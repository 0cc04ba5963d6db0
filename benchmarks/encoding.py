"""How fast images become codes: as it was, channels last, and in bfloat16, with the share of bits that change.

    python benchmarks/encoding.py [--checkpoint best.ckpt] [--images 256] [--batch 16] [--device cpu] [--threads 1]
    python benchmarks/encoding.py --gpu

Without a checkpoint the network is EfficientNet-Lite0 with random weights, whose bits are less settled than those of
trained ones. `--gpu` first checks training in bfloat16, the backends and NCCL on a GPU (benchmarks/gpu.py), and encodes
more images there; all of it takes less than eight minutes. Ways are measured in turns, and the fastest turn of each
counts: other processes only make it slower.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gpu import checks
from numpy.typing import NDArray

from razh.backbones.timm import TimmBackbone
from razh.index.encoding import _has_bf16, device_named, encoder
from razh.index.network import Encoded
from razh.method import HashingMethod
from razh.methods.ce import CE
from razh.retrieval.packing import pack
from razh.run.checkpoint import load

TURNS = 3


def method_of(checkpoint: Path | None, device: str) -> HashingMethod:
    """Return the method of a checkpoint, or one with random weights."""
    if checkpoint is not None:
        return load(checkpoint, device).method
    torch.manual_seed(0)
    facts = {
        "class_attributes": torch.rand(4, 3),
        "attribute_vectors": torch.rand(3, 2),
        "train_classes": torch.arange(4),
    }
    return CE(backbone=TimmBackbone("tf_efficientnet_lite0", split=5), **facts, bits=64).eval().to(device)


def plain(method: HashingMethod) -> Callable[[torch.Tensor], NDArray[np.uint8]]:
    """Return what encodes without any of what is measured."""
    method.backbone.to(memory_format=torch.contiguous_format)

    def encode(images: torch.Tensor) -> NDArray[np.uint8]:
        with torch.inference_mode():
            return pack(method.codes(images.to(method.device)).cpu().numpy())

    return encode


def _codes_by(encode: Callable[[torch.Tensor], Encoded]) -> Callable[[torch.Tensor], NDArray[np.uint8]]:
    return lambda images: encode(images).codes


def main() -> None:
    """Measure, and print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    if options.gpu:
        checks()
    options.images, options.batch = (
        options.images or (4096 if options.gpu else 128),
        options.batch or (64 if options.gpu else 16),
    )
    torch.set_num_threads(options.threads)
    method = method_of(options.checkpoint, device_named(options.device))
    side = method.backbone.image_size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(options.images, 3, 12, 12, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1).mul(255).byte()
    ways = {"as it was": lambda: plain(method), "channels last": lambda: _codes_by(encoder(method))}
    if _has_bf16(method.device.type):
        ways["channels last, bf16"] = lambda: _codes_by(encoder(method, "bf16"))
    else:
        print("this device has no bfloat16")
    seconds = dict.fromkeys(ways, float("inf"))
    codes = {}
    for _ in range(TURNS):
        for name, make in ways.items():
            encode = make()
            encode(images[: options.batch])
            started = time.perf_counter()
            codes[name] = np.concatenate([encode(some) for some in images.split(options.batch)])  # waits for a GPU
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    first = next(iter(ways))
    for name in ways:
        changed = np.bitwise_count(codes[name] ^ codes[first]).sum() / (options.images * method.bits)
        print(
            f"{name:<22} {1000 * seconds[name] / options.images:7.2f} ms an image   "
            f"{seconds[first] / seconds[name]:5.2f} x   {changed:.3%} of bits changed"
        )


if __name__ == "__main__":
    main()
