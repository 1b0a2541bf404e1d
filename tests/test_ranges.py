"""8-bit linear maps whose inputs keep to measured ranges."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.models import FAMILIES, LAYERS, VOCABULARY, random_tokens, tiny_fastbert, with_bag
from support.same import check_a_row_is_alone
from torch import nn

from fastbert.calibration.ranges import measure_ranges, measuring
from fastbert.errors import InputError
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.engine import Engine
from fastbert.packed import int8
from fastbert.packed.input_range import Range
from fastbert.packed.measuring import Seen
from fastbert.packed.ranges import Fixed, sizes_behind

TOKENS = random_tokens(np.arange(2, 30), seed=3)


def fixed(model, ranges=None, **options) -> Engine:
    ranges = measure_ranges(model, TOKENS) if ranges is None else ranges
    return Engine(model, dtype=torch.int8, ranges=ranges, **options)


def chances(engine: Engine) -> torch.Tensor:
    return torch.from_numpy(engine.exit_logits(TOKENS)).softmax(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_near_float32s(family):
    model = tiny_fastbert(family)
    full, ranges = chances(Engine(model)), measure_ranges(model, TOKENS)
    far = (chances(fixed(model, ranges)) - full).abs().mean()
    assert 0 < far < 0.03
    narrow = {name: Range(span.least / 4, span.most / 4) for name, span in ranges.items()}
    assert (chances(fixed(model, narrow)) - full).abs().mean() > 2 * far  # control


def test_ranges_are_those_of_what_modules_are_given():
    """Hugging Face's own modules, a row at a time."""
    model, seen = tiny_fastbert(), defaultdict(list)
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, given, name=name: seen[f"backbone.{name}"].append(given[0].detach())
            )
    for row in range(len(TOKENS)):
        ids = TOKENS.ids[TOKENS.offsets[row] : TOKENS.offsets[row + 1]]
        with torch.no_grad():
            model.backbone(torch.from_numpy(ids).long()[None])
    layers, norms = model.backbone.encoder.layer, {}
    for k, layer in enumerate(layers):
        last = layers[k - 1].output.LayerNorm if k else model.backbone.embeddings.LayerNorm
        norms[f"backbone.encoder.layer.{k}.attention.self.query"] = last
        norms[f"backbone.encoder.layer.{k}.intermediate.dense"] = layer.attention.output.LayerNorm
    found = measure_ranges(model, TOKENS)
    assert len(found) == 4 * LAYERS + LAYERS - 1  # and the exits' but the adopted one
    for name in seen.keys() & found.keys():
        given = torch.cat([each.flatten(0, 1) for each in seen[name]])
        given = given / sizes_behind(norms.get(name), given.shape[1])
        sizes = given.abs().amax(0)
        large = sizes > 2 * sizes.sort(descending=True).values[8]
        may = name.endswith("output.dense")
        assert found[name].apart == large.nonzero().flatten().tolist() * may, name
        given[:, found[name].apart] = 0
        least, most = given.aminmax()
        expected = pytest.approx((least.item(), most.item()), rel=1e-3, abs=1e-4)
        assert (found[name].least, found[name].most) == expected, name


def made(inputs: int, outputs: int, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


@torch.inference_mode()
@pytest.mark.parametrize("top", ["own", None, 127])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_what_a_product_hands_on_is_what_the_next_would_quantise(monkeypatch, top, activation):
    if top != "own":
        monkeypatch.setattr(int8, "_exact_top", lambda *_: top)
    x, norm = 3 * torch.randn(23, 37), nn.LayerNorm(37)
    norm.weight.data = torch.rand(37) + 0.1
    up = Fixed([made(37, 48, 0)], norm, Range(-0.5, 0.6))
    down = Fixed([made(48, 19, 1)], None, Range(-0.2, 1.5))
    given = up.quantised(x)
    stands_for = (given.float() - up.zero) * up.step * sizes_behind(norm, 37)
    inside = (x > stands_for.amin(0)) & (x < stands_for.amax(0))
    wrong = ((stands_for - x) / (up.step * sizes_behind(norm, 37)))[inside]
    assert wrong.abs().max() < 0.51
    assert wrong.mean().abs() < 0.05
    found = down.weight.top, up.inputs_of(down, given, activation)
    expected = down.quantised(up.outputs(given, torch.float32, activation))
    assert found[1].max() <= found[0]
    assert (found[1].int() - expected.int()).abs().max() <= 1  # halves are rounded otherwise
    sizes = sizes_behind(norm, 37)
    inside = x.clamp(-0.5 * sizes, 0.6 * sizes)
    assert not torch.equal(inside, x)  # control: some are cut to the range
    mapped = up.outputs(given, torch.float32)
    torch.testing.assert_close(mapped, made(37, 48, 0)(inside), atol=0.05, rtol=0)
    check_a_row_is_alone(lambda x: up.outputs(up.quantised(x), torch.float32), x, 1e-6)


@torch.inference_mode()
def test_inputs_that_are_many_times_as_large_are_multiplied_apart():
    torch.manual_seed(0)
    x = torch.randn(200, 48)
    x[:, 7] *= 30
    x[:, 40] *= 1.5
    seen = Seen(None, 48, apart=True)
    seen.add(x[:120])
    seen.add(x[120:])
    span = seen.range()
    assert span.apart == [7]
    assert max(-span.least, span.most) == x[:, [*range(7), *range(8, 48)]].abs().max()
    together = Seen(None, 48, apart=False)
    together.add(x)
    assert together.range() == Range(x.min().item(), x.max().item())


@torch.inference_mode()
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_what_is_apart_is_exact(family):
    """The rest is as near as if there were nothing apart."""
    model, name = tiny_fastbert(family), "backbone.encoder.layer.1.output.dense"
    parts = dict(model.named_modules())
    if family == "modernbert":
        name = "backbone.layers.1.mlp.Wo"
    up = name.replace("output.dense", "intermediate.dense").replace("Wo", "Wi")
    parts[up].weight[5] *= -200  # an input of the way down that is large
    ranges, full = measure_ranges(model, TOKENS), chances(Engine(model))
    assert ranges[name].apart == [5]
    far = (chances(fixed(model, ranges)) - full).abs().mean()
    most = max(ranges[name].most, 200 * ranges[name].most)
    one = ranges | {name: Range(-most, most)}
    assert (chances(fixed(model, one)) - full).abs().mean() > 1.5 * far  # control


def test_a_rows_logits_are_its_own():
    """Whatever lies in its slice, and however that is cut into batches and pools."""
    model, expected = tiny_fastbert(), None
    ranges = measure_ranges(model, TOKENS)
    for batch, pool in ((4096, 1 << 20), (37, 90), (64, 1 << 20)):
        built = fixed(model, ranges, batch_tokens=batch, pool_tokens=pool)
        found = built.exit_logits(TOKENS)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)
        assert (found.std(1) > 0.05).mean() > 0.9  # control: rows differ by more
        for rows in ([5], [0, 27], [27, 11, 3]):
            some = built.exit_logits(TOKENS.take(np.array(rows)))
            np.testing.assert_allclose(some, expected[:, rows], rtol=0, atol=0.05)


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), 1e5])
@pytest.mark.parametrize("part", ["word_embeddings", "layer.1.intermediate.dense", "LayerNorm"])
def test_weights_of_which_no_numbers_may_come_are_refused(part, number):
    """Whole numbers stand for no NaN, so a row would get an answer."""
    model = tiny_fastbert()
    ranges = measure_ranges(model, TOKENS)
    weight = next(each for name, each in model.named_parameters() if f"{part}.weight" in name)
    odd = int(TOKENS.ids[40])
    with torch.no_grad():
        weight[odd if len(weight) == VOCABULARY else 3] = number
    with pytest.raises(InputError, match=rf"{part}.weight' holds NaN or numbers from 65,504 on"):
        fixed(model, ranges)
    if number != 1e5:
        assert not np.isfinite(Engine(model).exit_logits(TOKENS)).all()  # control
        with pytest.raises(InputError, match=r"inputs of .* are not finite"):
            measure_ranges(model, TOKENS)
    with torch.no_grad():
        weight[:] = 65_000
    fixed(model, ranges)


def test_a_map_without_a_range_is_refused():
    model = tiny_fastbert()
    ranges = measure_ranges(model, TOKENS)
    del ranges["exits.2.narrow"]
    with pytest.raises(InputError, match=r"no range for the inputs of exits\.2\.narrow; make it"):
        fixed(model, ranges)


def test_a_new_exit_before_all_others_leaves_points_as_they_are():
    model = tiny_fastbert()
    point = replace(
        OperatingPoint.of_speed(0.5, model.config), ranges=measure_ranges(model, TOKENS)
    )
    found = fixed(with_bag(model), point.with_bag().ranges)
    assert np.isfinite(found.exit_logits(TOKENS)[1:]).all()


def test_rows_that_ranges_are_measured_on_are_few_and_any():
    for rows, few in ((9, 1), (100, 10), (20_000, 300)):
        assert measuring(rows, 0).sum() == few
    assert not np.array_equal(measuring(100, 0), measuring(100, 1))
