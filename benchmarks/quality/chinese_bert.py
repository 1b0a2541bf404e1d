"""A small Chinese BERT from nothing: masked language modelling on the training texts.

For machines without pre-trained Chinese weights. With such weights, pass them to `paper.py
--backbone bert-base-chinese` instead; what this makes is a stand-in that knows no more than the
texts of a few data sets.

    python -m benchmarks.quality.chinese_bert --data DATA --output WORK/chinese_bert \\
        --sets chnsenticorp --sets douban_book_review

DATA holds a folder per set, with train.parquet, and vocab/bert-base-chinese.vocab.txt.
"""

import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.support.measure import machine
from fastbert.inference.precision import device, device_name, supports
from fastbert.training.examples import Examples
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

CONFIG = {
    "num_hidden_layers": 6,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
MASKED, MAX_LENGTH = 0.15, 128


class _Trainer(Trainer):
    """Predicts tokens where they are masked only: the other six in seven would cost as much."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        labels = inputs.pop("labels")
        hidden = model.bert(**inputs).last_hidden_state
        masked = labels != -100
        loss: torch.Tensor = nn.functional.cross_entropy(model.cls(hidden[masked]), labels[masked])
        return loss


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--sets", required=True, multiple=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--epochs", default=1.0, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--learning-rate", default=3e-4, show_default=True)
def main(
    data: Path,
    sets: tuple[str, ...],
    output: Path,
    epochs: float,
    batch_size: int,
    learning_rate: float,
) -> None:
    """See the top of this file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    started = time.monotonic()
    set_seed(0)
    tokenizer = BertTokenizer(str(data / "vocab" / "bert-base-chinese.vocab.txt"))
    texts = [
        text
        for name in sets
        for text in read_examples([str(data / name / "train.parquet")], InputColumns("text"))[
            0
        ].texts
    ]
    dataset = Examples(texts).tokenize(tokenizer, MAX_LENGTH)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **CONFIG))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                learning_rate=learning_rate,
                per_device_train_batch_size=batch_size,
                warmup_steps=0.1,
                weight_decay=0.01,
                train_sampling_strategy="group_by_length",
                bf16=supports("bf16", device()),
                use_cpu=device() == "cpu",
                dataloader_num_workers=0 if device() == "cpu" else 3,
                logging_steps=0.02,
                save_strategy="no",
                remove_unused_columns=False,
                disable_tqdm=True,
                report_to=[],
            ),
            data_collator=DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=MASKED, pad_to_multiple_of=8
            ),
            train_dataset=dataset,
        )
        trainer.train()
    model.bert.save_pretrained(output)
    tokenizer.save_pretrained(output)
    found = {
        "sets": sets,
        "texts": len(texts),
        "tokens": int(dataset.tokens.lengths.sum()),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "device": device_name(device()),
        "config": CONFIG,
        "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "machine": machine(),
        "seconds": round(time.monotonic() - started),
    }
    (output / "pretraining.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
