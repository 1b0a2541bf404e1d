"""NVIDIA's classifiers, which no Auto class loads: adopted by the layout that they are saved in."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.jobs import invoke
from support.models import HIDDEN, LAYERS, make_noisy, tiny_classifier, tiny_tokenizer
from support.shards import random_texts
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from fastbert.encoders.adopt import own_heads
from fastbert.errors import InputError
from fastbert.exits.question import Question
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import load_classifier, load_model

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [14, 15, 16, 17, 0, 0, 0]])
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
NAMES = ["High", "Medium", "Low"]


class QualityClassifier(nn.Module):
    """As the model's page has it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.dropout = model, nn.Dropout(0.2)
        self.fc = nn.Linear(HIDDEN, len(NAMES))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.softmax(self.fc(self.dropout(features))[:, 0], dim=1)


class PromptClassifier(nn.Module):
    """The same, with one head for each question."""

    def __init__(self, backbone: PreTrainedModel, sizes: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        for k, size in enumerate(sizes):
            head = nn.Module()
            head.fc = nn.Linear(HIDDEN, size)
            self.add_module(f"head_{k}", head)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        features = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.softmax(self.head_0.fc(mean), dim=1)


def save(model: nn.Module, folder: Path, **settings: Any) -> Path:
    """As PyTorchModelHubMixin does, with the backbone's configuration in a folder beside it."""
    folder.mkdir(exist_ok=True)
    tiny_classifier("deberta-v2").config.save_pretrained(folder / "base")
    tiny_tokenizer(folder).save_pretrained(folder)
    settings |= {"base_model": str(folder / "base")}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def quality(folder: Path, **settings: Any) -> nn.Module:
    model = make_noisy(QualityClassifier(tiny_classifier("deberta-v2").base_model), 3)
    names = dict(enumerate(NAMES))
    save(model, folder, **{"fc_dropout": 0.2, "id2label": names} | settings)
    return model


def prompts(folder: Path, sizes: dict[str, int]) -> nn.Module:
    backbone = tiny_classifier("deberta-v2").base_model
    model = make_noisy(PromptClassifier(backbone, [*sizes.values()]), 3)
    names = {str(k): name for k, name in enumerate(NAMES)}
    more = {"task_type_map": names, "weights_map": {}, "divisor_map": {}}
    save(model, folder, target_sizes=sizes, **more)
    return model


def answers(folder: Path) -> torch.Tensor:
    model = FastBertForSequenceClassification.from_classifier(load_classifier(str(folder))[0])
    assert model.config.label_names == NAMES
    model.eval().save_pretrained(folder / "adopted")
    again = FastBertForSequenceClassification.from_pretrained(folder / "adopted").eval()
    with torch.no_grad():
        return again(input_ids=IDS, attention_mask=MASK).logits.softmax(-1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_one_head_on_the_first_token(tmp_path, kind):
    published = quality(tmp_path)
    weights = {k: v.to(kind) for k, v in published.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    published.load_state_dict(weights)
    torch.testing.assert_close(answers(tmp_path), published(IDS, MASK), atol=1e-5, rtol=0)


def test_one_head_on_the_mean(tmp_path):
    published = prompts(tmp_path, {"task_type": 3})
    torch.testing.assert_close(answers(tmp_path), published(IDS, MASK), atol=1e-5, rtol=0)


def test_one_linear_map_costs_what_it_computes(tmp_path):
    quality(tmp_path)
    model = FastBertForSequenceClassification.from_classifier(load_classifier(str(tmp_path))[0])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.heads[-1](torch.zeros(1, 7, HIDDEN))
    assert model.heads[-1].flops(np.array([7, 3])).tolist() == [counter.get_total_flops()] * 2


def test_the_job_takes_it(tmp_path):
    published = quality(tmp_path / "teacher")
    pq.write_table(pa.table({"text": random_texts(30)}), tmp_path / "corpus.parquet")
    call = ["--teacher", tmp_path / "teacher", "--corpus", tmp_path / "corpus.parquet"]
    call += ["--output", tmp_path / "model", "--distil-epochs", 1, "--max-length", 20]
    assert invoke("distill", *call).exit_code == 0
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK).logits.softmax(-1)
        torch.testing.assert_close(found, published(IDS, MASK), atol=1e-5, rtol=0)


def test_pickled_weights_are_refused_with_what_converts_them(tmp_path):
    expected = quality(tmp_path)(IDS, MASK)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="are .bin files, expected safetensors") as caught:
        load_classifier(str(tmp_path))
    _, command, rest = str(caught.value).split('"')
    exec(command)
    assert rest == f", and pass {tmp_path}"
    torch.testing.assert_close(answers(tmp_path), expected, atol=1e-5, rtol=0)


def test_several_heads_are_several_questions(tmp_path, caplog):
    """Except one that has one class, as NVIDIA's `no_label_reason`."""
    sizes = {"task_type": 3, "creativity_scope": 4, "no_label_reason": 1, "reasoning": 2}
    published = prompts(tmp_path, sizes)
    asked = [Question(name=name) for name, size in sizes.items() if size > 1]
    classifier, _ = load_classifier(str(tmp_path))
    assert "question 'no_label_reason' has only one class, and is left out" in caplog.text
    heads = own_heads(classifier)
    assert [own.name for own in heads] == [each.name for each in asked]
    model = FastBertForSequenceClassification.from_heads(classifier.base_model, heads, asked)
    model.eval().save_pretrained(tmp_path / "adopted")
    again = FastBertForSequenceClassification.from_pretrained(tmp_path / "adopted").eval()
    names = [list(each.task.names) for each in again.questions]
    assert names == [NAMES, ["0", "1", "2", "3"], ["0", "1"]]
    with torch.no_grad():
        logits = again(input_ids=IDS, attention_mask=MASK).logits
        features = published.backbone(input_ids=IDS, attention_mask=MASK).last_hidden_state
    mean = (features * MASK[..., None]).sum(1) / MASK.sum(1, keepdim=True)
    for each in again.questions:
        head = getattr(published, f"head_{[*sizes].index(each.name)}")
        expected = head.fc(mean).softmax(-1)
        found = logits[:, each.numbers].softmax(-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    engine = Engine(again)
    tokens = Tokens(IDS[0].numpy().astype(np.int32), np.array([0, 7]))
    torch.testing.assert_close(
        torch.from_numpy(engine.full_depth(tokens)), logits[:1], atol=1e-4, rtol=0
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        again.heads[-1](torch.zeros(1, 7, HIDDEN))
    assert again.heads[-1].flops(np.array([7])).tolist() == [counter.get_total_flops()]


@pytest.mark.parametrize("base", ["made-up/base", "{0}/nope", 3, None])
def test_a_backbone_that_cannot_be_reached(base, tmp_path):
    quality(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["base_model"] = base = base.format(tmp_path) if isinstance(base, str) else base
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"put the config.json of '{base}' into a folder"):
        load_classifier(str(tmp_path))
    shutil.copytree(tmp_path / "base", tmp_path / "fetched")
    settings["base_model"] = str(tmp_path / "fetched")  # which is what it says
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_classifier(str(tmp_path))[0].base_model.config.num_hidden_layers == LAYERS


def test_what_is_missing_or_unknown_is_told(tmp_path):
    quality(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for change, says in [
        (lambda w: w.pop("fc.weight"), "'fc.weight' is missing"),
        (lambda w: w.update({"fc.scale": w["fc.bias"].clone()}), "'fc.scale' is not part of"),
        (lambda w: w.pop("model.encoder.layer.0.output.dense.weight"), "is missing"),
    ]:
        changed = dict(weights)
        change(changed)
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=says):
            load_classifier(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [{"id2label": ["a"]}, {"id2label": {"a": "b"}}, {"id2label": 3}, {"target_sizes": 3},
     {"target_sizes": {}}, {"target_sizes": {"task_type": "x"}}, {"id2label": None}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(settings, tmp_path):
    """Classes without names are two, as Hugging Face counts them; this one has three."""
    quality(tmp_path, **settings)
    with pytest.raises(InputError) as caught:
        load_classifier(str(tmp_path))
    assert "\n" not in str(caught.value)
