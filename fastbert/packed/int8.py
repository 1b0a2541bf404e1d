"""Linear maps of 8-bit integers, on CPUs: weights are quantised per output, inputs per token.

With a scale for each token, its result does not depend on others; inputs and outputs stay float32.
With measured input ranges, `packed.ranges` is faster.

Letters: N tokens, K inputs, M outputs.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional

#: (N, K) -> (N, M)
Map = Callable[[torch.Tensor], torch.Tensor]

#: Rows of trial products, to check 8-bit ones before use.
_PROBES = 64


class Weight:
    """A weight (M, K) as integers from -127 to 127, for products with inputs from 0 to `top`. Uses
    oneDNN if its products are exact, otherwise float32, where integers up to 2^24 are exact.
    """

    def __init__(self, weight: torch.Tensor, top: int | None = None) -> None:
        """`top`: used without a trial."""
        self.scales = (weight.abs().amax(1) / 127).clamp_min(1e-12)  # (M,)
        self.rounded = (weight / self.scales[:, None]).round()
        top = top or _exact_top(*weight.shape)
        self.exact, self.top = top is not None, top or 255
        if self.exact:
            self.packed = torch.ops.onednn.qlinear_prepack(self.rounded.to(torch.int8), None)
            self.zeros = torch.zeros(len(weight), dtype=torch.long)
            del self.rounded

    def product(
        self,
        x: torch.Tensor,
        zero: int,
        step: float = 1.0,
        bias: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        activation: tuple[str, str] | None = None,
        result: tuple[float, int] = (1.0, 0),
    ) -> torch.Tensor:
        """(N, M) from uint8 (N, K), which represent `step` times their distance from `zero`. Only
        `exact` products support an `activation`, oneDNN's operation and algorithm, and, for the
        `dtype` uint8, `result`: step and zero of the outputs.
        """
        operation, algorithm = activation or ("none", "")
        if self.exact:
            return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
                *(x, step, zero, self.packed, self.scales, self.zeros, bias),
                *(*result, dtype, operation, [], algorithm),
            )
        found = functional.linear(x.float() - zero, self.rounded) * (self.scales * step)
        return (found if bias is None else found + bias).to(dtype)


def quantised(weight: torch.Tensor, bias: torch.Tensor) -> Map:
    """The map with this weight (M, K) and bias (M,)."""
    factors = Weight(weight)
    levels = factors.top // 2

    def multiply(x: torch.Tensor) -> torch.Tensor:
        steps = (x.abs().amax(1, keepdim=True) / levels).clamp_min(1e-30)  # (N, 1)
        # Shifted to be positive, and by one half so that truncation rounds: 1 to 2 * levels + 1.
        quantised = cut((x * steps.reciprocal()).add_(levels + 1.5))
        return torch.addcmul(bias, factors.product(quantised, levels + 1), steps)

    return multiply


def cut(x: torch.Tensor) -> torch.Tensor:
    """Numbers from 0 to 255, truncated to uint8.

    Through int8, to which torch converts five times as fast, if that keeps the bits, which no C++
    standard guarantees.
    """
    return x.to(torch.int8).view(torch.uint8) if _keeps_bits() else x.to(torch.uint8)


@cache
def _keeps_bits() -> bool:
    """Tried with full vectors, and with the remainder at each length."""
    numbers = torch.arange(512, dtype=torch.float32) / 2
    tails = (numbers[start : start + count] for start in (0, 300) for count in (*range(80), 512))
    return all(torch.equal(x.to(torch.int8).view(torch.uint8), x.to(torch.uint8)) for x in tails)


@cache
def _exact_top(outputs: int, inputs: int) -> int | None:
    """Largest inputs for which products of this size are exact here; None: none are.

    Without VNNI, processors add pairs of products in 16 bits, which saturate: there it is 127.
    oneDNN chooses the instructions itself, so the largest products are tried, with all their uses.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator).float()
    weight[0], weight[-1], weight[1:-1, 0] = 127, -127, 127  # so that all scales are 1
    bias = torch.linspace(-1, 1, outputs)
    for top in (255, 127):
        x = torch.randint(0, top + 1, (_PROBES, inputs), generator=generator)
        x[0], x[1] = top, 0
        zero = top // 2 + 1
        expected = (x.double() - zero) @ weight.double().T
        step = 4 / expected.abs().max().item()
        mapped = (expected * step).float() + bias
        try:
            tried = Weight(weight, top)
            given, gelu = x.to(torch.uint8), ("gelu", "none")
            exact = tried.product(given, zero)
            small = tried.product(given, zero, step, bias, torch.bfloat16)
            whole = tried.product(given, zero, step, bias, torch.uint8, gelu, (0.02, 9))
        except (AttributeError, RuntimeError):  # another torch release, or torch without oneDNN
            return None
        handed_on = (functional.gelu(mapped) / 0.02 + 9).round().clamp(0, 255)
        if (
            torch.allclose(exact.double(), expected, rtol=1e-6, atol=0)
            and torch.allclose(small.float(), mapped, rtol=0.01, atol=0.01)
            and (whole.float() - handed_on).abs().max() <= 1
        ):
            return top
    return None
