"""Training in the paper's two steps, with transformers.Trainer.

    fine-tune      backbone and last classifier on labels                    Liu et al. 2020, 3.2.2
    self-distil    all other branches on the last one's soft labels          Liu et al. 2020, 3.2.3

The second step needs no labels, so it may see any amount of further text, and it is all there is
to do for a classifier that exists already.
"""

import logging
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.training_args import ParallelMode

from fastbert.inference.precision import device, supports
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification

log = logging.getLogger(__name__)


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

#: What PyTorch's losses take for a missing label.
NO_LABEL = -100


@dataclass(frozen=True)
class Examples:
    """Texts to learn from, in columns of equal length."""

    texts: list[str]
    pairs: list[str] | None = None
    labels: list[int] | None = None  # class indices, or NO_LABEL

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Those of some rows, by number."""

        def some(column: list[Any] | None) -> list[Any] | None:
            return None if column is None else [column[row] for row in rows]

        return Examples([self.texts[row] for row in rows], some(self.pairs), some(self.labels))

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "TokenDataset":
        """A data set for the Trainer."""
        return TokenDataset(Tokenizer(tokenizer)(self.texts, self.pairs, max_length), self.labels)


class TokenDataset(Dataset[dict[str, Any]]):
    """Tokenized rows, and their labels where there are any."""

    def __init__(self, tokens: Tokens, labels: list[int] | None) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        span = slice(self.tokens.offsets[row], self.tokens.offsets[row + 1])
        item: dict[str, Any] = {"input_ids": self.tokens.ids[span].tolist()}
        if self.tokens.types is not None:
            item["token_type_ids"] = self.tokens.types[span].tolist()
        if self.labels is not None:
            item["labels"] = self.labels[row]
        return item


def finetune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: Examples,
    dev: Examples | None = None,
    recipe: Recipe = FINETUNE,
) -> None:
    """Train backbone and last classifier on labels, in place; with `recipe.joint` all classifiers.

    With `dev` the weights after the epoch with the best accuracy on it are kept, else the last.
    """
    if not recipe.joint:
        model.freeze_students()
    length = model.config.max_length
    rows = train.tokenize(tokenizer, length)
    judges = dev.tokenize(tokenizer, length) if dev else None
    _run(_FinetuneTrainer, model, tokenizer, rows, judges, recipe, "fine-tune")


def self_distil(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Examples,
    recipe: Recipe = DISTIL,
) -> None:
    """Train all branches but the last on the last one's answers, in place.

    Labels are used only if the recipe gives them a weight.
    """
    rows = texts.tokenize(tokenizer, model.config.max_length)
    if not recipe.hard_labels:
        rows.labels = None
    model.freeze_teacher()
    _run(_DistilTrainer, model, tokenizer, rows, None, recipe, "self-distil")


def distillation_loss(
    students: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
    temperature: float = 1.0,
    hard_labels: float = 0.0,
) -> torch.Tensor:
    """Sum over students of KL(teacher || student), mean over rows: a scalar.

    `students` (S, B, N) and `teacher` (B, N) are logits. Liu et al. 2020, equation 6. Equation 5
    prints the other direction of the divergence; this is the one the authors' code computes. The
    teacher gets no gradient. With a temperature T both sides are softened and the divergence is
    multiplied by T^2, and with a weight of `hard_labels` the cross entropy of `labels` (B,) joins
    in (Hinton et al. 2015, section 2); rows without a label have -100.
    """
    wanted = (teacher.detach() / temperature).log_softmax(-1)  # (B, N)
    given = (students / temperature).log_softmax(-1)  # (S, B, N)
    divergence = (
        nn.functional.kl_div(given, wanted.expand_as(given), reduction="none", log_target=True).sum(
            -1
        )
        * temperature**2
    )  # (S, B)
    if labels is not None and hard_labels:
        known = labels != NO_LABEL
        surprise = nn.functional.cross_entropy(
            students.transpose(1, 2),
            labels.expand(len(students), -1),
            reduction="none",
            ignore_index=NO_LABEL,
        )  # (S, B)
        weight = hard_labels * known.to(divergence.dtype)
        divergence = (1 - weight) * divergence + weight * surprise
    return divergence.mean(-1).sum()


class _StepTrainer(Trainer, ABC):
    """What both steps share."""

    recipe: Recipe

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        loss, outputs = self.loss_of(model, inputs)
        return (loss, outputs) if return_outputs else loss

    @abstractmethod
    def loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """The loss of a batch, and the model's outputs."""


class _FinetuneTrainer(_StepTrainer):
    """Cross entropy of the last classifier, or the sum of all."""

    def loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any]:
        outputs = model(**inputs, all_layers=self.recipe.joint and model.training)
        loss = outputs.loss
        if outputs.layer_logits is not None:
            every = outputs.layer_logits  # (L, B, N)
            labels = inputs["labels"].expand(len(every), -1)
            loss = len(every) * nn.functional.cross_entropy(every.flatten(0, 1), labels.flatten())
            outputs.layer_logits = None  # gathered along the wrong dimension otherwise
        return loss, outputs


class _DistilTrainer(_StepTrainer):
    """Divergence of the students from the last branch."""

    def loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any]:
        labels = inputs.pop("labels", None)
        outputs = model(**inputs, all_layers=True)
        logits, recipe = outputs.layer_logits, self.recipe  # (L, B, N)
        loss = distillation_loss(
            logits[:-1], logits[-1], labels, recipe.temperature, recipe.hard_labels
        )
        return loss, outputs


class _Progress(TrainerCallback):
    """Training progress as log lines; they read the same in a terminal and in a job's log."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        shown = {
            key: f"{logs[key]:.4f}"
            for key in ("loss", "eval_loss", "eval_accuracy", "train_loss")
            if key in logs
        }
        values = "  ".join(f"{key} {value}" for key, value in shown.items())
        spent = time.monotonic() - self.started
        left = spent * (state.max_steps - state.global_step) / max(state.global_step, 1)
        log.info(
            "%s  step %d of %d  %s  %.0f s left",
            *(self.step, state.global_step, state.max_steps, values, left),
        )


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits: Any = prediction.predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


def _run(
    trainer_class: type[_FinetuneTrainer] | type[_DistilTrainer],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: TokenDataset,
    dev: TokenDataset | None,
    recipe: Recipe,
    step: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=4 * recipe.batch_size,
            warmup_steps=recipe.warmup,  # below 1: a share of all steps
            weight_decay=recipe.weight_decay,
            seed=recipe.seed,
            train_sampling_strategy="group_by_length",
            bf16=supports("bf16", device()),
            use_cpu=device() == "cpu",
            logging_steps=0.1,  # ten lines a step
            eval_strategy="epoch" if dev else "no",
            save_strategy="best" if dev else "no",
            save_only_model=True,
            save_total_limit=1,
            load_best_model_at_end=dev is not None,
            metric_for_best_model="accuracy" if dev else None,
            remove_unused_columns=False,
            dataloader_pin_memory=device() == "cuda",
            disable_tqdm=True,
            report_to=[],
        )
        if arguments.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
            arguments._n_gpu = 1  # DataParallel would gather (L, B, N) along L; use --workers
        trainer = trainer_class(
            model=model,
            args=arguments,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
            train_dataset=train,
            eval_dataset=dev,
            compute_metrics=_accuracy if dev else None,
            callbacks=[_Progress(step)],
        )
        trainer.recipe = recipe
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
