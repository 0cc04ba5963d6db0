"""What a machine has, asked before Lightning is: what cannot work is refused in one line."""

import logging
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)
MOST_DEVICES = 1_024
GPU, HALF = ("gpu", "cuda"), ("bf16-mixed", "16-mixed", "bf16-true", "16-true", "bf16", "16")


def check(trainer: Any) -> None:
    """Refuse devices and precisions that this machine has not got.

    Args:
        trainer: options `accelerator`, `devices` and `precision` of Lightning's Trainer.

    Raises:
        ValueError: no number of devices, more GPUs than there are, no such GPU, or a precision that the processor does
            not compute in.
    """
    accelerator, devices, precision = str(trainer.accelerator), trainer.devices, str(trainer.precision)
    on_gpu = accelerator in GPU or (accelerator == "auto" and torch.cuda.is_available())
    _check_number(devices, on_cpu=accelerator == "cpu" or (accelerator == "auto" and not _has_accelerator()))
    if on_gpu:
        _check_gpus(accelerator, devices)
    if precision not in HALF or accelerator not in ("auto", "cpu", *GPU):
        return
    if not on_gpu and (not precision.startswith("bf16") or not cpu_has_bf16()):
        kind = "bf16" if precision.startswith("bf16") else "half precision"
        raise ValueError(
            f"trainer.precision={precision}: this CPU has no {kind}, it would only be slower; pass "
            "--trainer.precision=32-true"
        )
    if on_gpu and precision.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"trainer.precision={precision}: this GPU has no bf16; pass --trainer.precision=16-mixed or 32-true"
        )


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _check_number(devices: Any, on_cpu: bool) -> None:
    wanted = wanted_devices(devices)
    without_meaning = on_cpu and (isinstance(wanted, list) or str(devices).strip() == "-1")
    if without_meaning or (isinstance(wanted, int) and not 1 <= wanted <= MOST_DEVICES):
        others = "auto for one process" if on_cpu else "auto for all"
        raise ValueError(f"--trainer.devices={devices} must be a whole number from 1 to {MOST_DEVICES:,}, or {others}")
    if isinstance(wanted, list) and (not wanted or min(wanted) < 0 or len(set(wanted)) < len(wanted)):
        raise ValueError(f"--trainer.devices={devices} must name devices by different numbers from 0; pass 0,1, say")


def _check_gpus(accelerator: str, devices: Any) -> None:
    there = torch.cuda.device_count()
    if not there:
        raise ValueError(
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch can use; "
            "pass --trainer.accelerator=cpu"
        )
    wanted = wanted_devices(devices)
    if isinstance(wanted, int) and wanted > there:
        raise ValueError(
            f"trainer.devices={devices}: this machine has {_count(there)}; pass --trainer.devices={there}, or "
            f"--trainer.accelerator=cpu for {wanted} processes without one"
        )
    if isinstance(wanted, list) and any(number >= there for number in wanted):
        raise ValueError(
            f"trainer.devices={devices}: this machine has {_count(there)}, numbered from 0; "
            f"pass --trainer.devices={there} or numbers below"
        )


def wanted_devices(devices: Any) -> int | list[int] | None:
    """Return how many devices an option asks for, or which ones by number; None for all there are."""
    text = str(devices).strip()
    if text in ("auto", "-1"):
        return None
    if isinstance(devices, list):
        return [int(number) for number in devices]
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError:
        raise ValueError(f"--trainer.devices={devices} is not a number of devices; pass 1, 2, … or auto") from None


def _count(gpus: int) -> str:
    return f"{gpus} GPU" + ("s" if gpus > 1 else "")


def cpu_has_bf16() -> bool:
    """Tell whether the processor multiplies bf16 itself; where it does not, autocast is several times slower."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    if capabilities in ("DEFAULT", "NO AVX", "AVX2") and not hasattr(torch.cpu, "_is_avx512_bf16_supported"):
        return False
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in asked if hasattr(torch.cpu, name))


def trains_batch_norm(model: nn.Module) -> bool:
    """Tell whether a model has batch normalisation whose statistics move in training."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training)
    return any(p.requires_grad for norm in norms for p in norm.parameters(recurse=False))


def sync_batch_norm(model: nn.Module, trainer: Any) -> bool:
    """Tell whether batch statistics are to be shared between devices; torch can do that on GPUs alone."""
    if trainer.sync_batchnorm:
        return True
    wanted = wanted_devices(trainer.devices)
    on_gpu = str(trainer.accelerator) in (*GPU, "auto") and torch.cuda.is_available()
    here = torch.cuda.device_count() if wanted is None and on_gpu else wanted if isinstance(wanted, int) else 1
    here = len(wanted) if isinstance(wanted, list) else here
    if here * int(trainer.num_nodes) < 2 or not trains_batch_norm(model):
        return False
    if not on_gpu:
        log.warning("batch normalisation uses the images of each process alone: torch shares statistics on GPUs only")
    return on_gpu
