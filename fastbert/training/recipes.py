"""Settings of a training step: chosen by the data and the backbone, or the paper's."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One training step's settings."""

    #: Passes over the data.
    epochs: float
    #: Peak of the learning rate, reached after `warmup`, then falling linearly to 0.
    learning_rate: float
    #: Rows per optimizer step and worker.
    batch_size: int = 32
    #: Share of the steps over which the learning rate rises.
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    #: Fine-tuning: all branches learn from the labels, not only the last one.
    joint: bool = False
    #: Self-distillation: what logits are divided by before they are compared.
    temperature: float = 1.0
    #: Self-distillation: weight of the labels' cross entropy, 0 to 1; that of the teacher's answers
    #: is the rest. Texts without labels have the teacher's answers only.
    hard_labels: float = 0.0


#: Liu et al. 2020, section 4.3: fine-tuning, self-distillation, and the longest input in tokens.
PAPER_FINETUNE, PAPER_DISTIL, PAPER_LENGTH = Recipe(3, 2e-5), Recipe(5, 2e-4), 128

#: Rows that a step reads, repeats included, with one class, and how many more with the square root
#: of their number: few classes are learnt from few rows, and large sets need no second pass.
_FINETUNE_ROWS, _DISTIL_ROWS = (15_000, 7_000), (30_000, 4_000)
#: Passes over small and large data.
_MOST_EPOCHS, _FEWEST_EPOCHS = 20.0, 1.0
#: A rate for hidden states of a width; wider backbones take smaller ones.
_RATE, _WIDTH, _HIGHEST_RATE = 1e-4, 384, 5e-4


def finetuning(rows: int, classes: int, width: int) -> Recipe:
    """For so many rows and classes, and a backbone with hidden states of `width`."""
    rate = min(_HIGHEST_RATE, _RATE * (_WIDTH / width) ** 1.5)
    return Recipe(_epochs(_FINETUNE_ROWS, rows, classes), rate)


def distilling(rows: int, classes: int) -> Recipe:
    """For so many rows and classes. The rate is five times the paper's: branches start from
    nothing, and are far from done after five epochs of that."""
    return Recipe(_epochs(_DISTIL_ROWS, rows, classes), 1e-3)


def _epochs(read: tuple[int, int], rows: int, classes: int) -> float:
    passes = (read[0] + read[1] * math.sqrt(classes)) / max(rows, 1)
    return round(min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, passes)), 1)
