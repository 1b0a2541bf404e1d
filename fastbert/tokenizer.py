"""The tokenizer of a checkpoint, and checks that it fits the model."""

import logging
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from fastbert.errors import InputError, explained

log = logging.getLogger(__name__)


def load_tokenizer(place: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the weights, in a folder or on the hub.

    Raises InputError if there is none: Hugging Face would make one without words.
    """
    advice = "save it beside the weights, with its save_pretrained"
    if not find_spec("sentencepiece"):  # transformers asks for another package
        advice += "; if it is a .model file alone, pip install sentencepiece"
    # The tokenizers library has no more specific errors.
    with explained(f"no tokenizer in {place}", advice, Exception):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, trust_remote_code=False
        )
        special = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
        words = tokenizer.get_vocab().keys() - special
    if not words:
        raise InputError(f"no tokenizer in {place}: it has only special tokens; {advice}")
    tokenizer.padding_side = "right"  # heads read the first token
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedConfig,
    pairs: bool = False,
    trained: bool = False,
) -> None:
    """Raises InputError if the tokenizer does not fit the model with this configuration of its
    backbone.

    With `pairs` for pairs of texts, with `trained` for training, which pads. Warns of a vocabulary
    that is far smaller than the model's.
    """
    advice = "pass the tokenizer that the model was trained with"
    vocabulary, rows = tokenizer.get_vocab(), model.vocab_size
    last = max(vocabulary, key=lambda token: vocabulary[token])
    if vocabulary[last] >= rows:
        raise InputError(
            f"the tokenizer has the token '{last}' with id {vocabulary[last]}, the model has "
            f"{rows} embeddings; {advice}, or resize and train the embeddings"
        )
    if len(vocabulary) < rows / 2:
        log.warning(
            "the tokenizer has %d tokens, the model embeddings of %d: is it the model's own?",
            *(len(vocabulary), rows),
        )
    if trained and tokenizer.pad_token_id is None:
        raise InputError("the tokenizer has no padding token, which training needs; set pad_token")
    texts = ["a", "\U0001f469"]
    with explained("the tokenizer cannot be used", advice, Exception):
        encoded = tokenizer(texts, texts if pairs else None, return_token_type_ids=True)
    types = getattr(model, "type_vocab_size", None)
    found = max(map(max, encoded["token_type_ids"])) if pairs else 0
    if types and found >= types:  # a model without types ignores them
        raise InputError(
            f"the tokenizer gives tokens of a pair's second text the type {found}, the model has "
            f"{types} type; {advice}, or one text a row"
        )


def check_room(tokenizer: PreTrainedTokenizerBase, length: int, pairs: bool = False) -> None:
    """Raises InputError if this length leaves no token for a text, or for each text of a pair."""
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if length < (least := special + 1 + pairs):
        raise InputError(
            f"a --max-length of {length} has no room for {'pairs of texts' if pairs else 'a text'} "
            f"beside {special} special tokens; expected at least {least}, when the checkpoint is "
            "made"
        )
