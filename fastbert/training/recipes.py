"""Settings of a training step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One training step's settings; the defaults are the paper's (section 4.3) but for one rate."""

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


FINETUNE = Recipe(epochs=3, learning_rate=2e-5)
#: The paper has 2e-4: branches start from nothing, and are far from done after five epochs of it.
DISTIL = Recipe(epochs=5, learning_rate=1e-3)
