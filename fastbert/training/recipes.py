"""Settings of a training step: by data and backbone, or the paper's."""

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
    #: Self-distillation: divisor of logits before they are compared.
    temperature: float = 1.0
    #: Self-distillation: weight of the labels' cross entropy, 0 to 1; the teacher's answers have
    #: the rest. Texts without labels only have the teacher's answers.
    hard_labels: float = 0.0


#: Liu et al. 2020, section 4.3: fine-tuning, self-distillation, and the longest input in tokens.
PAPER_FINETUNE, PAPER_DISTIL, PAPER_LENGTH = Recipe(3, 2e-5), Recipe(5, 2e-4), 128

#: Rows that a step reads, including repeats, with one class, and the increase with the square root
#: of the number of classes: few classes need few rows, and large sets no second pass.
_FINETUNE_ROWS, _DISTIL_ROWS = (15_000, 7_000), (30_000, 4_000)
#: Most and fewest passes over the data.
_MOST_EPOCHS, _FEWEST_EPOCHS = 20.0, 1.0
#: A learning rate and its width of hidden states; wider backbones need smaller rates.
_RATE, _WIDTH, _HIGHEST_RATE = 1e-4, 384, 5e-4


def finetuning(rows: int, classes: int, width: int) -> Recipe:
    """Recipe of fine-tuning for numbers of rows and classes, and a backbone with hidden states of
    `width`."""
    rate = min(_HIGHEST_RATE, _RATE * (_WIDTH / width) ** 1.5)
    return Recipe(_epochs(_FINETUNE_ROWS, rows, classes), rate)


def distilling(rows: int, classes: int) -> Recipe:
    """Recipe of self-distillation for numbers of rows and classes. The rate is five times the
    paper's, with which untrained branches are far from converged after five epochs."""
    return Recipe(_epochs(_DISTIL_ROWS, rows, classes), 1e-3)


def _epochs(read: tuple[int, int], rows: int, classes: int) -> float:
    passes = (read[0] + read[1] * math.sqrt(classes)) / max(rows, 1)
    return round(min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, passes)), 1)
