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
from typing import Any

import torch
from torch import nn
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
from fastbert.model import FastBertForSequenceClassification
from fastbert.tasks.task import Task
from fastbert.training.examples import Examples, TokenDataset
from fastbert.training.losses import distillation_loss, joint_loss
from fastbert.training.recipes import DISTIL, FINETUNE, Recipe

log = logging.getLogger(__name__)


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


class _StepTrainer(Trainer, ABC):
    """What both steps share."""

    recipe: Recipe
    task: Task

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
    """Loss of the last exit on the labels, or the sum of all."""

    def loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any]:
        outputs = model(**inputs, all_exits=self.recipe.joint and model.training)
        loss = outputs.loss
        if outputs.exit_logits is not None:
            loss = joint_loss(self.task, outputs.exit_logits, inputs["labels"])
            outputs.exit_logits = None  # gathered along the wrong dimension otherwise
        return loss, outputs


class _DistilTrainer(_StepTrainer):
    """Distance of the students from the last exit."""

    def loss_of(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Any]:
        labels = inputs.pop("labels", None)
        outputs = model(**inputs, all_exits=True)
        logits, recipe = outputs.exit_logits, self.recipe  # (E, B, N)
        loss = distillation_loss(
            self.task, logits[:-1], logits[-1], labels, recipe.temperature, recipe.hard_labels
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
            arguments._n_gpu = 1  # DataParallel would gather (E, B, N) along E; use --workers
        trainer = trainer_class(
            model=model,
            args=arguments,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
            train_dataset=train,
            eval_dataset=dev,
            compute_metrics=_accuracy if dev else None,
            callbacks=[_Progress(step)],
        )
        trainer.recipe, trainer.task = recipe, model.task
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
