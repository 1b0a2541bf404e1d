"""Training in the paper's two steps, with transformers.Trainer.

    fine-tune      backbone and last classifier on labels                    Liu et al. 2020, 3.2.2
    self-distil    all other branches on the last one's soft labels          Liu et al. 2020, 3.2.3

The second step needs no labels, so it may see any amount of further text, and it is all there is
to do for a classifier that exists already.
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
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

from fastbert.encoders.pretrained import not_finite
from fastbert.errors import FastBertError
from fastbert.inference.precision import device, supports
from fastbert.model import FastBertForSequenceClassification, FastBertOutput
from fastbert.training.examples import Examples
from fastbert.training.losses import distillation_loss, joint_loss
from fastbert.training.recipes import DISTIL, FINETUNE, Recipe

log = logging.getLogger(__name__)

#: The two steps.
FINE_TUNE, SELF_DISTIL = "fine-tune", "self-distil"
#: What the model is called with.
Batch = dict[str, Any]


def finetune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: Examples,
    dev: Examples | None = None,
    recipe: Recipe = FINETUNE,
) -> None:
    """Train backbone and last classifier on labels, in place; with `recipe.joint` all classifiers.

    With `dev` the weights after the epoch with the best accuracy on it are kept, else the last.
    Raises FastBertError where training diverges.
    """
    if not recipe.joint:
        model.branches[:-1].requires_grad_(False)  # students wait for their own step

    def answered(network: nn.Module, batch: Batch) -> FastBertOutput:
        outputs: FastBertOutput = network(**batch, all_exits=recipe.joint and network.training)
        if outputs.exit_logits is not None:
            outputs.loss = joint_loss(model.task, outputs.exit_logits, batch["labels"])
            outputs.exit_logits = None  # gathered along the wrong dimension otherwise
        return outputs

    _run(FINE_TUNE, answered, model, tokenizer, train, dev, recipe)


def self_distil(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Examples,
    recipe: Recipe = DISTIL,
) -> None:
    """Train all branches but the last on the last one's answers, in place.

    Labels are used only if the recipe gives them a weight. Raises FastBertError where training
    diverges.
    """
    if not recipe.hard_labels:
        texts = replace(texts, labels=None)
    model.freeze_teacher()

    def answered(network: nn.Module, batch: Batch) -> FastBertOutput:
        labels = batch.pop("labels", None)
        outputs: FastBertOutput = network(**batch, all_exits=True)
        logits: Any = outputs.exit_logits  # (E, B, N)
        outputs.loss = distillation_loss(
            model.task, logits[:-1], logits[-1], labels, recipe.temperature, recipe.hard_labels
        )
        return outputs

    _run(SELF_DISTIL, answered, model, tokenizer, texts, None, recipe)


def _diverged(step: str, what: str) -> FastBertError:
    option = "--learning-rate" if step == FINE_TUNE else "--distil-learning-rate"
    return FastBertError(
        f"training diverged: in {step}, {what}; expected finite numbers, below those of "
        f"guessing; nothing was saved; lower {option}, or use a model that is sound to begin with"
    )


class _Trainer(Trainer):
    """Minimises the loss of what `answered` makes of the model and a batch."""

    answered: Callable[[nn.Module, Batch], FastBertOutput]
    step: str

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = self.answered(model, inputs)
        loss: Any = outputs.loss
        # Waits for the device, in place of transformers' own look, which hides what it sees.
        if model.training and not torch.isfinite(loss):
            done, of = self.state.global_step, self.state.max_steps
            raise _diverged(self.step, f"the loss is {loss} at step {done + 1} of {of}")
        return (loss, outputs) if return_outputs else loss


class _Progress(TrainerCallback):
    """Training progress as log lines; they read the same in a terminal and in a job's log."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        shown = [key for key in ("loss", "eval_loss", "eval_accuracy", "train_loss") if key in logs]
        values = "  ".join(f"{key} {logs[key]:.4f}" for key in shown)
        spent = time.monotonic() - self.started
        left = spent * (state.max_steps - state.global_step) / max(state.global_step, 1)
        log.info(
            "%s  step %d of %d  %s  %.0f s left",
            *(self.step, state.global_step, state.max_steps, values, left),
        )


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits: Any = prediction.predictions
    right = (logits.argmax(-1) == prediction.label_ids) & np.isfinite(logits).all(-1)
    return {"accuracy": float(right.mean())}


def _run(
    step: str,
    answered: Callable[[nn.Module, Batch], FastBertOutput],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: Examples,
    dev: Examples | None,
    recipe: Recipe,
) -> None:
    length = model.config.max_length
    multiple = 8 if -(-length // 8) * 8 <= model.encoder.longest else None  # else no positions
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
            logging_nan_inf_filter=False,
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
        trainer = _Trainer(
            model=model,
            args=arguments,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple),
            train_dataset=train.tokenize(tokenizer, length),
            eval_dataset=dev.tokenize(tokenizer, length) if dev else None,
            compute_metrics=_accuracy if dev else None,
            callbacks=[_Progress(step)],
        )
        trainer.answered, trainer.step = answered, step
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.eval()
        _check_last_update(step, trainer)


def _check_last_update(step: str, trainer: _Trainer) -> None:
    """Raises FastBertError where weights, or what they make of some rows, are not finite: no loss
    has come after the last update."""
    model: Any = trainer.model
    if name := not_finite(model):
        raise _diverged(step, f"weights of {name} are not finite after the last step")
    rows: Any = trainer.train_dataset
    some = [rows[row] for row in range(min(len(rows), trainer.args.train_batch_size))]
    with torch.no_grad():
        loss = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(some)))
    if not torch.isfinite(loss):
        raise _diverged(step, f"the loss is {loss} after the last step")
    if step == FINE_TUNE and loss > 5 * (guessing := math.log(model.num_labels)):
        what = f"after the last step the loss is {loss:.2f} on rows that were learnt"
        raise _diverged(step, f"{what}, where guessing gives {guessing:.2f}")
