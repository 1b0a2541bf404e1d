"""Linear maps on CPUs: right in every precision, and a row's result is the row's alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import random_tokens, tiny_fastbert
from support.same import check_a_row_is_alone
from torch import nn

from fastbert.inference.engine import DTYPES, Engine
from fastbert.packed import int8, linear

ROOT = Path(__file__).resolve().parents[1]

#: How far a row's logits, of size 1 to 10, may move with its neighbours. Sums are added in another
#: order where batches differ, which moves the last bit; what rounds afterwards turns that, now and
#: then, into a step of its own: 2^-8 of a number in bf16, a 127th of a token's largest in int8.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.05}


def made(inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_rows_product_is_its_own(precision, bias):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    maps = [made(37, 19, bias), made(37, 8, bias, seed=1)]
    x = torch.randn(23, 37)
    expected = torch.cat([part(x) for part in maps], 1)
    found = linear.prepared(
        [part.to(dtype) for part in maps], factors=torch.int8 if precision == "int8" else None
    )
    near = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.05}[precision]
    torch.testing.assert_close(found(x.to(dtype)).float(), expected, atol=near, rtol=0)
    check_a_row_is_alone(found, x.to(dtype), {"bf16": 0.01}.get(precision, 1e-6))


@pytest.mark.parametrize("by_int8", [True, False])
def test_whole_numbers_are_cut_alike_with_and_without_the_way_by_int8(monkeypatch, by_int8):
    if not by_int8:  # else where that was tried and found right
        monkeypatch.setattr(int8, "_keeps_bits", lambda: False)
    x = torch.arange(0, 256, 0.25)
    for count in (1, 7, 31, 1024):
        assert torch.equal(int8.cut(x[-count:]), x[-count:].floor().to(torch.uint8))


@torch.inference_mode()
def test_control_a_scale_for_all_tokens_makes_neighbours_matter():
    weight = torch.quantize_per_tensor(made(37, 19).weight, 0.01, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    with pytest.raises(AssertionError):
        check_a_row_is_alone(
            lambda x: torch.ops.quantized.linear_dynamic(x, packed, True), torch.randn(23, 37), 0.1
        )


@torch.inference_mode()
def test_maps_with_and_without_bias_side_by_side():
    maps, x = [made(6, 4), made(6, 3, bias=False)], torch.randn(5, 6)
    expected = torch.cat([part(x) for part in maps], 1)
    torch.testing.assert_close(linear.prepared(maps)(x), expected)


@torch.inference_mode()
def test_eight_bits_of_what_is_not_a_number():
    """A diverged model must stay visible, and a row of zeros is none."""
    x = torch.ones(4, 6)
    x[1, 2], x[2, 3], x[3] = float("nan"), float("inf"), 0
    found = linear.prepared([made(6, 4)], factors=torch.int8)(x)
    assert found.isfinite().all(1).tolist() == [True, False, False, True]
    torch.testing.assert_close(found[3], made(6, 4).bias.detach())


@torch.inference_mode()
def test_largest_products_do_not_overflow():
    for inputs in (2, 37, 1536):
        rows = torch.tensor([[1.0], [-1.0]]).expand(2, inputs)
        both = nn.Linear(inputs, 2, bias=False)
        both.weight.data = rows.clone()
        found = linear.prepared([both], factors=torch.int8)(rows)
        expected = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * inputs
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("top", [None, 127])
def test_where_eight_bits_have_no_instruction(monkeypatch, top):
    monkeypatch.setattr(int8, "_exact_top", lambda *_: top)
    test_a_rows_product_is_its_own("int8", True)
    test_largest_products_do_not_overflow()


def test_without_the_private_operator(monkeypatch):
    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    int8._exact_top.cache_clear()
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", missing)
    test_largest_products_do_not_overflow()
    monkeypatch.undo()
    int8._exact_top.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_rows_logits_are_its_own(precision):
    """Whatever lies in its slice, and however that is cut into batches and pools."""
    tokens = random_tokens(np.arange(2, 30), seed=3)
    dtype, expected = DTYPES[precision], None
    for batch, pool in ((4096, 1 << 20), (37, 90), (64, 1 << 20)):
        built = Engine(tiny_fastbert(), dtype=dtype, batch_tokens=batch, pool_tokens=pool)
        found = built.exit_logits(tokens)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[precision])
        for rows in ([5], [0, 27], [27, 11, 3]):
            some = built.exit_logits(tokens.take(np.array(rows)))
            np.testing.assert_allclose(some, expected[:, rows], rtol=0, atol=TOLERANCE[precision])


def test_on_a_processor_without_8_bit_instructions():
    """There 16-bit sums of two products saturate."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    tests = ["overflow", "product_is_its_own", "logits_are_its_own"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        + ["-k", " or ".join(tests)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
