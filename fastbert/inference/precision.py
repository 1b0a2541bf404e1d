"""Which arithmetic this machine is good at: the one place that chooses a device and a precision.

A precision is the kind of number that linear maps multiply: "fp32", "bf16", and of 8 bits "int8"
on CPUs and "fp8" on GPUs.
"""

import os

import torch

from fastbert.errors import InputError

#: The first GPUs that multiply bf16 in hardware (Ampere); older ones emulate it, slower than fp32.
_BF16_GPU = (8, 0)
#: The first GPUs that multiply fp8 with a scale for each row (Hopper).
_FP8_GPU = (9, 0)
#: What those of 8 bits are for; nothing emulates them.
_ONLY_FOR = {"int8": "CPUs", "fp8": "GPUs from Hopper (H100) on"}
#: Either of these makes bf16 faster than fp32 on a CPU: twice as fast with the second, more with
#: the first. Without them it is emulated.
_BF16_CPU = ("amx_bf16", "avx512_bf16")


def device() -> str:
    """Where a model runs that has the machine to itself: "cuda" if torch sees a GPU, or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """For reports: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def supports(precision: str, device: str) -> bool:
    """Whether "cuda" or "cpu" multiplies such numbers in hardware.

    Of GPUs that are not in this machine, as those of a cluster seen from its head, bf16 and fp8 are
    expected: all since 2020 have the one, all since 2022 that are made for it the other.
    """
    if precision == "fp32":
        return True
    if precision == "int8":
        return device == "cpu"
    if device == "cuda":
        here = torch.cuda.is_available()
        least = _FP8_GPU if precision == "fp8" else _BF16_GPU
        return not here or torch.cuda.get_device_capability() >= least
    capabilities = torch.cpu.get_capabilities()
    return precision == "bf16" and any(capabilities.get(name) for name in _BF16_CPU)


def resolve(asked: str, device: str, proven: str | None = None) -> str:
    """The precision to use where `asked` is one or "auto".

    "auto" is the one that an operating point was `proven` in, where the device supports it; else
    bf16 where supported; else fp32. A precision asked for by name is used even if it is emulated.
    Raises InputError for 8 bits that the device does not multiply.
    """
    if asked in _ONLY_FOR and not supports(asked, device):
        raise InputError(f"precision {asked} is for {_ONLY_FOR[asked]}; use bf16 here")
    if asked != "auto":
        return asked
    if proven is not None and supports(proven, device):
        return proven
    return "bf16" if supports("bf16", device) else "fp32"


def require(precision: str, device: str, emulated: bool) -> None:
    """Raises InputError if the device does not multiply such numbers; bf16 may be `emulated`."""
    if supports(precision, device):
        return
    if precision in _ONLY_FOR:
        without = "pass --gpus-per-replica 0" if precision == "int8" else "leave other machines out"
        raise InputError(
            f"this run labels in {precision}, which is for {_ONLY_FOR[precision]}; {without} to go "
            "on, or another --precision, with --relabel if the output was begun in it"
        )
    if not emulated:
        raise InputError(
            f"this run labels in {precision}, which {device_name(device)} on {os.uname().nodename} "
            "does not multiply; leave such machines out, or pass --precision bf16, which is then "
            "emulated, or --precision fp32, with --relabel if the output was begun in bf16"
        )
