"""Options and fixtures of all tests."""

import sys
from collections.abc import Iterator

import pytest
from support.models import tiny_fastbert, tiny_tokenizer

from fastbert.weights import save_checkpoint


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-minutes", type=float, default=0, help="How long tests/fuzz goes on, in all."
    )


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """The private Ray of a file's tests ends with them: it holds ports that others want, too."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny FastBERT checkpoint with tokenizer, on disk."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("vocabulary"))
    model = tiny_fastbert()
    model.config.id2label = {i: name for i, name in enumerate(["ape", "bee", "cow", "dog", "eel"])}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    save_checkpoint(model, tokenizer, str(folder))
    return str(folder)
