"""Special tokens in a text: the answer that Hugging Face's model gives, in training and inference."""

import pytest
import torch
from support.models import tiny_classifier, tiny_fastbert, tiny_tokenizer
from transformers import DataCollatorWithPadding

from fastbert.inference.engine import Engine
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples

TEXTS = {
    "roberta": ["red<pad> river", "<pad>", "stone</s>bridge<pad><pad> old<mask>", "quiet night"],
    "bert": ["red [PAD] river", "[PAD]", "stone [SEP] bridge [PAD][PAD] old [MASK]", "quiet night"],
}


@pytest.mark.parametrize("family", TEXTS)
def test_the_answer_is_hugging_faces(family, tmp_path):
    tokenizer, teacher = tiny_tokenizer(tmp_path, family), tiny_classifier(family)
    model = FastBertForSequenceClassification.from_classifier(teacher).eval()
    tokens = Tokenizer(tokenizer)(TEXTS[family], None, 32)
    assert (tokens.ids == tokenizer.pad_token_id).sum() >= 4  # control: they are not split
    found = torch.from_numpy(Engine(model).full_depth(tokens))
    expected = [teacher(**tokenizer(text, return_tensors="pt")).logits[0] for text in TEXTS[family]]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", TEXTS)
def test_training_sees_what_inference_sees(family, tmp_path):
    """At every exit, with padding beside the special tokens."""
    tokenizer, model = tiny_tokenizer(tmp_path, family), tiny_fastbert(family)
    rows = Examples(TEXTS[family]).tokenize(tokenizer, 32)
    batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)([*rows])
    with torch.no_grad():
        trained = model(**batch, all_exits=True).exit_logits
    found = torch.from_numpy(Engine(model).exit_logits(rows.tokens))
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=0)
