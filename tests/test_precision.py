"""Which arithmetic is chosen, on every kind of machine: the hardware is made up."""

import pytest
import torch

from fastbert.errors import InputError
from fastbert.inference import precision


@pytest.fixture
def machine(monkeypatch):
    """A machine with these CPU features and a GPU of this capability, or none."""

    def pretend(features: set[str] = frozenset(), gpu: tuple[int, int] | None = None) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    return pretend


@pytest.mark.parametrize(
    ("features", "gpu", "expected"),
    [
        (set(), None, "fp32"),
        ({"avx512_f", "avx512_vnni"}, None, "fp32"),
        ({"avx512_bf16"}, None, "bf16"),
        ({"amx_bf16"}, None, "bf16"),
        ({"amx_bf16"}, (7, 5), "fp32"),  # a T4 emulates it
        (set(), (8, 0), "bf16"),
    ],
)
def test_auto_is_what_the_hardware_multiplies(machine, features, gpu, expected):
    machine(features, gpu)
    device = precision.device()
    assert device == ("cuda" if gpu else "cpu")
    assert precision.device_name(device) == ("a GPU" if gpu else "cpu")
    assert precision.resolve("auto", device) == expected
    assert precision.supports("bf16", device) == (expected == "bf16")


def test_a_gpu_elsewhere_is_taken_to_be_a_new_one(machine):
    machine()
    assert precision.resolve("auto", "cuda") == "bf16"


def test_auto_keeps_what_was_proven_where_it_can(machine):
    machine({"avx512_bf16"})
    assert precision.resolve("auto", "cpu", "fp32") == "fp32"
    assert precision.resolve("auto", "cpu", "int8") == "int8"
    assert precision.resolve("auto", "cuda", "int8") == "bf16"
    machine()
    assert precision.resolve("auto", "cpu", "bf16") == "fp32"


def test_what_is_asked_for_is_used(machine):
    machine()
    assert precision.resolve("bf16", "cpu", "fp32") == "bf16"
    assert precision.resolve("int8", "cpu") == "int8"
    with pytest.raises(InputError, match="is for CPUs; use bf16"):
        precision.resolve("int8", "cuda")
    assert precision.resolve("fp8", "cuda") == "fp8"  # of a cluster, seen from its head
    with pytest.raises(InputError, match="is for GPUs from Hopper"):
        precision.resolve("fp8", "cpu")


@pytest.mark.parametrize(("gpu", "able"), [((8, 0), False), ((8, 9), False), ((9, 0), True)])
def test_fp8_is_for_hopper_and_newer(machine, gpu, able):
    machine(gpu=gpu)
    assert precision.supports("fp8", "cuda") == able
    assert precision.resolve("auto", "cuda", "fp8") == ("fp8" if able else "bf16")
    if able:
        precision.require("fp8", "cuda", emulated=False)
        assert precision.resolve("fp8", "cuda") == "fp8"
        return
    with pytest.raises(InputError, match="leave other machines out"):
        precision.require("fp8", "cuda", emulated=True)
    with pytest.raises(InputError, match="Hopper"):
        precision.resolve("fp8", "cuda")


def test_int8_on_a_gpu_names_the_way_on(machine):
    machine(gpu=(9, 0))
    with pytest.raises(InputError, match="gpus-per-replica 0"):
        precision.require("int8", "cuda", emulated=True)
