"""Options and fixtures of all tests."""

import os
import signal
import sys
from collections.abc import Iterator

# Read when Triton is imported, which torch may do. On a GPU: TRITON_INTERPRET=0 pytest -m gpu
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from support.models import tiny_fastbert, tiny_tokenizer
from support.stages import InProcess

from fastbert.weights import save_checkpoint

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # below nohup or a shell's `&`, and inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-minutes", type=float, default=0, help="How long tests/fuzz goes on, in all."
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first, as they take longest: both workers then end together."""
    slow = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_report_header() -> str:
    """Which instructions the numbers in this session come from."""
    features = torch.cpu.get_capabilities()
    names = ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    amx = bool(features.get("amx_bf16")) and limit in (None, "DEFAULT", "AVX512_CORE_AMX")
    return (
        f"processor: {', '.join(name for name in names if features.get(name)) or 'none of ours'}; "
        f"torch {torch.backends.cpu.get_cpu_capability()}, oneDNN up to {limit or 'its best'}; "
        f"AMX was {'' if amx else 'not '}run"
    )


@pytest.fixture(autouse=True)
def labels_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that unit tests give start no processes, which take longer than the tests."""
    if not request.node.get_closest_marker("integration"):
        monkeypatch.setattr("pipelines.running.executor.choose", lambda _: InProcess())


@pytest.fixture(scope="module", autouse=True)
def no_ray_is_left() -> Iterator[None]:
    """The Ray that a file's tests started ends with them."""
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
