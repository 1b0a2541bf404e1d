"""Training in the paper's two steps, with transformers.Trainer.

    fine-tune      backbone and last classifier on labels                    Liu et al. 2020, 3.2.2
    self-distil    all other branches on the last one's soft labels          Liu et al. 2020, 3.2.3

The second step needs no labels, so it can use any amount of further text, and it is the only step
for an existing classifier.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.training_args import ParallelMode

from fastbert.encoders.checks import beyond
from fastbert.errors import FastBertError
from fastbert.inference.precision import device, device_name, supports
from fastbert.model import FastBertForSequenceClassification, FastBertOutput
from fastbert.tasks.questions import Questions
from fastbert.tasks.task import answer
from fastbert.training.examples import Examples
from fastbert.training.losses import distillation_loss, joint_loss
from fastbert.training.recipes import Recipe

log = logging.getLogger(__name__)

#: The two steps.
FINE_TUNE, SELF_DISTIL = "fine-tune", "self-distil"
#: Arguments of the model.
Batch = dict[str, Any]

#: Evaluations on held-out rows in one fine-tuning, and how many in a row without a gain end it.
_LOOKS, _PATIENCE = 10, 3
#: Seconds between two log lines.
_SILENCE = 20.0
#: Seconds of training above which the log shows how to save time.
_LONG = 1200.0
#: Cost of a token in self-distillation, without gradients of the backbone, relative to fine-tuning.
_DISTILLED = 0.45
#: A loss that decreases by this share in the last fifth is still falling.
_FALLING = 0.05


@dataclass(frozen=True)
class Learnt:
    """Result of one step of training."""

    steps: int  # of the optimizer
    planned: int
    epochs: float  # passes over the data
    truncated: int  # truncated rows
    #: Mean loss of the held-out rows, or, without any, of the training rows: at the start, before
    #: the last fifth of the steps, and at the end.
    losses: tuple[float, float, float]

    @property
    def falling(self) -> bool:
        """Whether more steps would have helped, by the loss."""
        _, before, end = self.losses
        return self.steps == self.planned and end < (1 - _FALLING) * before


def finetune(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: Examples,
    dev: Examples | None = None,
    *,
    recipe: Recipe,
    distil_epochs: float = 0.0,
) -> Learnt:
    """Train backbone and last classifier on labels, in place; with `recipe.joint` all classifiers.

    With `dev`, ten evaluations on it decide: the weights with the highest mean `certainty` of the
    last classifier are kept, and training ends after three evaluations without a gain. Logs how
    long that takes, including `distil_epochs` passes over as many rows. Raises FastBertError if
    training diverges.
    """
    if not recipe.joint:
        model.branches[:-1].requires_grad_(False)  # students learn in the second step

    def answered(network: nn.Module, batch: Batch) -> FastBertOutput:
        joint = recipe.joint and network.training
        outputs: FastBertOutput = network(**batch, all_exits=joint, as_numbers=True)
        if outputs.exit_logits is not None:
            every = outputs.exit_logits
            outputs.loss = model.questions.total(joint_loss, every, targets=batch["labels"])
            outputs.exit_logits = None  # would be gathered along the wrong dimension
        return outputs

    then = _DISTILLED * distil_epochs
    return _run(FINE_TUNE, answered, model, tokenizer, train, dev, recipe, then)


def self_distil(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Examples,
    recipe: Recipe,
) -> Learnt:
    """Train all branches except the last on the last one's answers, in place.

    Labels are used only if the recipe gives them a weight. Raises FastBertError if training
    diverges.
    """
    if not recipe.hard_labels:
        texts = replace(texts, labels=None)
    model.freeze_teacher()
    loss = partial(
        distillation_loss, temperature=recipe.temperature, hard_labels=recipe.hard_labels
    )

    def answered(network: nn.Module, batch: Batch) -> FastBertOutput:
        labels = batch.pop("labels", None)
        outputs: FastBertOutput = network(**batch, all_exits=True)
        logits: Any = outputs.exit_logits  # (E, B, N)
        outputs.loss = model.questions.total(loss, logits[:-1], logits[-1], targets=labels)
        return outputs

    return _run(SELF_DISTIL, answered, model, tokenizer, texts, None, recipe)


def _diverged(step: str, what: str) -> FastBertError:
    option = "--learning-rate" if step == FINE_TUNE else "--distil-learning-rate"
    return FastBertError(
        f"training diverged: in {step}, {what}; expected finite numbers, below those of guessing; "
        f"nothing was saved; lower {option}, or start from a sound model"
    )


class _Trainer(Trainer):
    """Minimises the loss that `answered` computes from the model and a batch."""

    answered: Callable[[nn.Module, Batch], FastBertOutput]
    step: str
    progress: "_Progress"

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if model.training:
            self.progress.read += inputs["input_ids"].numel()
        outputs = self.answered(model, inputs)
        loss: Any = outputs.loss
        # Waits for the device, instead of transformers' check, which hides its findings.
        if model.training and not torch.isfinite(loss):
            done, of = self.state.global_step, self.state.max_steps
            raise _diverged(self.step, f"the loss is {loss} at step {done + 1} of {of}")
        return (loss, outputs) if return_outputs else loss


#: Suffixes of the values that are logged.
_SHOWN = ("loss", "accuracy", "r2")


class _Progress(TrainerCallback):
    """Training progress as log lines, for terminals and logs of jobs."""

    def __init__(self, step: str, looks: bool, tokens: float, then: float) -> None:
        """`looks` is the number of evaluations on held-out rows, the last one after the last step.
        `tokens` is the number of all tokens; the next step takes as long as `then` of them."""
        self.step, self.looks, self.tokens, self.then = step, looks, tokens, then
        self.read = 0
        self.warned = False
        self.started = self.said = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.said > _SILENCE:
            control.should_log = True
        if self.looks and state.global_step == state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.said = time.monotonic()
        shown = [key for key in logs if key.endswith(_SHOWN) and not key.startswith("train_")]
        if not state.is_world_process_zero or not shown:
            return
        values = "  ".join(
            f"{'held-out ' * key.startswith('eval_')}{key.removeprefix('eval_')} {logs[key]:.4f}"
            for key in shown
        )
        # By tokens, not steps, because the longest texts come first.
        spent, share = self.said - self.started, 1 / args.world_size
        left, then = (
            spent * tokens * share / max(self.read, 1)
            for tokens in (max(self.tokens - self.read / share, 0), self.then)
        )
        log.info(
            "%s  step %d of %d  %s  %s left%s",
            *(self.step, state.global_step, state.max_steps, values, duration(left)),
            f", then {duration(then)} of self-distilling" if then else "",
        )
        if not self.warned and spent + left + then > _LONG:
            self.warned = True
            log.info(
                f"about {duration(spent + left + then)} in all on {device_name(device())}; less, "
                "at a cost in accuracy, with --epochs 1 --distil-epochs 1, a smaller --max-length "
                "or fewer rows" + ", or on a GPU" * (device() == "cpu")
            )


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _judged(questions: Questions, prediction: EvalPrediction) -> dict[str, float]:
    """The measures of tasks, and their certainty, which is more informative on few rows."""
    logits, truth = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    found: dict[str, float] = {}
    certain = 0.0
    for asked in questions:
        task, own, known = asked.task, logits[:, asked.numbers], questions.targets(asked, truth)
        quality = task.quality(answer(task, own).values, task.truth(known.numpy()))
        found |= {f"{asked.name} {name}".strip(): value for name, value in quality.items()}
        certain += task.certainty(own, known).nan_to_num(-1e9, -1e9, -1e9).mean().item()
    return found | {"certainty": certain}


def _run(
    step: str,
    answered: Callable[[nn.Module, Batch], FastBertOutput],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    train: Examples,
    dev: Examples | None,
    recipe: Recipe,
    then: float = 0.0,
) -> Learnt:
    log.info("epochs %g, peak learning rate %.2g", recipe.epochs, recipe.learning_rate)
    length = model.config.max_length
    multiple = 8 if -(-length // 8) * 8 <= model.encoder.longest else None  # else no positions
    windows = model.config.windowing
    rows = train.tokenize(tokenizer, length, windows, drawn=step == FINE_TUNE)
    padded = float((-(-rows.windows.lengths // 8) * 8).sum() * len(rows) / len(rows.windows))
    progress = _Progress(step, bool(dev), recipe.epochs * padded, then * padded)
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
            logging_steps=1 / _LOOKS,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if dev else "no",
            eval_steps=1 / _LOOKS,
            save_strategy="best" if dev else "no",
            save_only_model=True,
            save_total_limit=1,
            load_best_model_at_end=dev is not None,
            metric_for_best_model="certainty" if dev else None,
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
            train_dataset=rows,
            eval_dataset=dev.tokenize(tokenizer, length, windows) if dev else None,
            compute_metrics=partial(_judged, model.questions) if dev else None,
            callbacks=[
                progress,
                *([EarlyStoppingCallback(_PATIENCE)] if dev else []),
            ],
        )
        trainer.answered, trainer.step, trainer.progress = answered, step, progress
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.eval()
        _check_last_update(step, trainer)
    state = trainer.state
    return Learnt(
        steps=state.global_step,
        planned=state.max_steps,
        epochs=round(state.epoch or 0.0, 2),
        truncated=rows.tokens.cut,
        losses=_losses(state.log_history, "eval_loss" if dev else "loss", state.global_step),
    )


def _losses(history: list[dict[str, float]], key: str, steps: int) -> tuple[float, float, float]:
    """The first value of this name, the last one up to four fifths of the steps, and the last."""
    found = [(each["step"], each[key]) for each in history if key in each]
    before = [loss for step, loss in found if step <= 0.8 * steps] or [found[0][1]]
    return found[0][1], before[-1], found[-1][1]


def _check_last_update(step: str, trainer: _Trainer) -> None:
    """Raises FastBertError if weights, or the loss on a few rows, are not finite: no loss was
    computed after the last update."""
    model: Any = trainer.model
    if name := beyond(model):
        raise _diverged(step, f"weights of {name} are not finite after the last step")
    rows: Any = trainer.train_dataset
    some = [rows[row] for row in range(min(len(rows), trainer.args.train_batch_size))]
    with torch.no_grad():
        loss = trainer.compute_loss(model, trainer._prepare_inputs(trainer.data_collator(some)))
    if not torch.isfinite(loss):
        raise _diverged(step, f"the loss is {loss} after the last step")
    if step == FINE_TUNE and loss > 5 * (guessing := model.questions.guessing):
        what = f"after the last step the loss is {loss:.2f} on training rows"
        raise _diverged(step, f"{what}, where guessing gives {guessing:.2f}")
