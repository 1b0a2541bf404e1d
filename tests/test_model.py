"""The Hugging Face model: all families, unchanged teachers, saving and loading, pipelines."""

import pytest
import torch
from support.models import (
    CLASSES,
    FAMILIES,
    HIDDEN,
    LAYERS,
    tiny_classifier,
    tiny_fastbert,
    tiny_tokenizer,
)
from support.shards import random_texts
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    pipeline,
)

from fastbert.errors import InputError
from fastbert.model import FastBertForSequenceClassification

IDS = torch.tensor([[7, 8, 9, 10, 11, 12, 13], [14, 15, 16, 17, 0, 0, 0]])


def inputs(family: str) -> dict[str, torch.Tensor]:
    pad = 1 if family in ("roberta", "xlm-roberta", "camembert") else 0
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    return {"input_ids": IDS.where(mask.bool(), pad), "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_exit(family):
    model = tiny_fastbert(family)
    given = inputs(family)
    both = model(**given, all_exits=True).exit_logits
    alone = model(input_ids=given["input_ids"][1:, :4], all_exits=True).exit_logits
    torch.testing.assert_close(both[:, 1:], alone)
    unmasked = model(input_ids=given["input_ids"], all_exits=True).exit_logits
    assert not torch.allclose(unmasked[:, 1:], alone)  # control: without the mask it would matter


def test_exits_may_lie_anywhere():
    scattered = [{"depth": 0}, {"depth": 2}, {"depth": 3, "head": "adopted"}]
    model = tiny_fastbert(exits=scattered)
    usual = tiny_fastbert()
    model.branches[1].load_state_dict(usual.branches[1].state_dict())
    found, expected = (m(**inputs("bert"), all_exits=True).exit_logits for m in (model, usual))
    torch.testing.assert_close(found[1:], expected[1:])
    assert len(found) == 3


@pytest.mark.parametrize(
    ("exits", "says"),
    [
        ([{"depth": 2}, {"depth": 1}, {"depth": 3}], r"depths \[2, 1, 3\]; expected rising"),
        ([{"depth": 1}, {"depth": 2}], "the last at 3"),
        ([], "the last at 3"),
        ([{"depth": "1"}], "cannot be read"),
        ([{"depth": 1, "bias": 2}], "cannot be read.*bias"),
        ([{"depth": 1, "head": "tree"}, {"depth": 3}], "'tree' at depth 1"),
        ([{"depth": 1, "task": "tone"}, {"depth": 3}], "question .tone."),
    ],
)
def test_exits_that_make_no_sense(exits, says):
    with pytest.raises(InputError, match=says):
        tiny_fastbert(exits=exits)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="position_ids"):
        tiny_fastbert()(**inputs("bert"), position_ids=IDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adopted_classifier_keeps_its_answers(family):
    teacher = tiny_classifier(family)
    model = FastBertForSequenceClassification.from_classifier(teacher).eval()
    given = inputs(family)
    expected = teacher(**given).logits
    torch.testing.assert_close(model(**given).logits, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        model.branches[-1].dense.weight += 0.1
    changed = model(**given).logits
    assert not torch.allclose(changed, expected, atol=1e-5)  # control: the head is in use


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_with_the_auto_class(family, tmp_path):
    model = tiny_fastbert(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, FastBertForSequenceClassification)
    assert loaded.config.backbone_config().model_type == family.partition(":")[0]
    given = inputs(family)
    first, second = model(**given, all_exits=True), loaded(**given, all_exits=True)
    assert torch.equal(first.exit_logits, second.exit_logits)
    assert first.exit_logits.shape == (LAYERS, 2, CLASSES)


def test_transformers_pipeline_answers_at_full_depth(tmp_path):
    teacher = tiny_classifier()
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    FastBertForSequenceClassification.from_classifier(teacher).save_pretrained(
        tmp_path / "checkpoint"
    )
    ours = pipeline("text-classification", str(tmp_path / "checkpoint"), device="cpu")
    theirs = pipeline("text-classification", teacher, tokenizer=tokenizer, device="cpu")
    texts = random_texts(9)
    for mine, expected in zip(ours(texts), theirs(texts), strict=True):
        assert mine["label"] == expected["label"]
        assert mine["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_from_backbone_starts_from_pretrained_weights(tmp_path):
    config = BertConfig(
        vocab_size=99,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        intermediate_size=52,
    )
    backbone = BertModel(config)
    backbone.save_pretrained(tmp_path)
    model = FastBertForSequenceClassification.from_backbone(str(tmp_path), ["no", "yes"])
    assert torch.equal(
        model.backbone.embeddings.word_embeddings.weight,
        backbone.embeddings.word_embeddings.weight,
    )
    assert len(model.branches) == LAYERS
    assert model.config.label_names == ["no", "yes"]


def test_a_frozen_teacher_has_neither_gradients_nor_dropout():
    model = tiny_fastbert()
    model.freeze_teacher()
    model.train()
    given = inputs("bert")
    first, second = model(**given, all_exits=True), model(**given, all_exits=True)
    assert torch.equal(first.logits, second.logits)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.startswith(("branches.0.", "branches.1.")) for name in trainable)
    unfrozen = tiny_fastbert().train()
    first, second = unfrozen(**given), unfrozen(**given)
    assert not torch.equal(first.logits, second.logits)  # control: there is dropout to switch off


def test_other_families_are_refused_by_name():
    config = AlbertConfig(
        vocab_size=99, embedding_size=16, hidden_size=36, num_attention_heads=3, num_labels=3
    )
    with pytest.raises(InputError, match="'albert' is not supported.*bert, roberta"):
        FastBertForSequenceClassification.from_classifier(AlbertForSequenceClassification(config))


def test_what_a_classifier_does_not_tell_is_asked():
    """One class may be a score or a yes or no; several scores are none of the questions."""
    for classes, problem, said in (
        (1, None, "--task score or --task several-labels"),
        (5, "regression", "gives 5 scores"),
        (1, "single_label_classification", "expected two or more"),
    ):
        teacher = tiny_classifier(labels=classes)
        teacher.config.problem_type = problem
        with pytest.raises(InputError, match=said):
            FastBertForSequenceClassification.from_classifier(teacher)


def test_a_model_without_head_is_refused():
    with pytest.raises(InputError, match="no classification head"):
        FastBertForSequenceClassification.from_classifier(tiny_classifier("roberta").base_model)
