"""Choice of device and precision, by what this machine multiplies fast.

A precision is the type of the factors of linear maps: "fp32", "bf16", and with 8 bits "int8" on
CPUs and "fp8" on GPUs.
"""

import os

import torch

from fastbert.errors import InputError

#: The first GPUs that multiply bf16 in hardware (Ampere); older ones emulate it, slower than fp32.
_BF16_GPU = (8, 0)
#: The first GPUs that multiply fp8 with a scale for each row (Hopper).
_FP8_GPU = (9, 0)
#: Devices for 8-bit precisions, which are never emulated.
_ONLY_FOR = {"int8": "CPUs", "fp8": "GPUs from Hopper (H100) on"}
#: Either of these makes bf16 faster than fp32 on a CPU: twice as fast with the second, more with
#: the first. Without them it is emulated.
_BF16_CPU = ("amx_bf16", "avx512_bf16")


def device() -> str:
    """The device of a model that has the machine to itself: "cuda" if torch sees a GPU, or
    "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """The GPU's name, or "cpu", for reports."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def supports(precision: str, device: str) -> bool:
    """Whether "cuda" or "cpu" multiplies these numbers in hardware.

    GPUs that are not in this machine, as seen from the head of a cluster, are expected to support
    bf16 and fp8: all since 2020 have bf16, data-centre GPUs since 2022 have fp8.
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
    """The precision to use, given `asked`, a precision or "auto".

    "auto" is the one in which an operating point was `proven`, if the device supports it; otherwise
    bf16 if supported; otherwise fp32. A named precision is used even if it is emulated. Raises
    InputError for 8 bits that the device does not support.
    """
    if asked in _ONLY_FOR and not supports(asked, device):
        raise InputError(f"precision {asked} is for {_ONLY_FOR[asked]}; use bf16 here")
    if asked != "auto":
        return asked
    if proven is not None and supports(proven, device):
        return proven
    return "bf16" if supports("bf16", device) else "fp32"


def require(precision: str, device: str, emulated: bool) -> None:
    """Raises InputError if the device does not multiply these numbers; bf16 may be `emulated`."""
    if supports(precision, device):
        return
    if precision in _ONLY_FOR:
        without = "pass --gpus-per-replica 0" if precision == "int8" else "leave other machines out"
        raise InputError(
            f"this run labels in {precision}, which is for {_ONLY_FOR[precision]}; {without} to "
            "continue, or another --precision, with --relabel if the output was begun in it"
        )
    if not emulated:
        raise InputError(
            f"this run labels in {precision}, which {device_name(device)} on {os.uname().nodename} "
            "does not multiply; leave such machines out, or pass --precision bf16, which is then "
            "emulated, or --precision fp32, with --relabel if the output was begun in bf16"
        )
