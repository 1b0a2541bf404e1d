"""What is read of a checkpoint without torch is what loading its configuration finds."""

import json
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.models import FAMILIES, LAYERS, tiny_fastbert

from fastbert.configuration import FastBertConfig, load_config
from fastbert.errors import InputError
from fastbert.exits.criteria import CRITERIA
from fastbert.exits.question import ANSWERS
from fastbert.exits.rules import CRITERIA_OF, PLAIN, TEMPERED
from fastbert.outline import Outline, read_outline

LEFT_OUT = "left out"
#: Of any field, as far as it may be; the rest cannot be read.
VALUES = [
    LEFT_OUT, None, True, 2, 2.0, -1, 0, 999, "2", "tanh", [], {}, ["x"], [{"depth": 2}],
    [{"depth": 1}, {"depth": LAYERS, "head": "adopted"}], [{"kind": "several-labels"}],
    "multi_label_classification", {"stride": 3}, {"most": 0}, {"p": {"thresholds": [0.5]}},
]  # fmt: skip
FIELDS = [
    "max_length", "exits", "questions", "problem_type", "teacher_activation", "adopted_heads",
    "windows",
    "operating_points",
    "default_operating_point", "layers", "backbone",
]  # fmt: skip
OF_BACKBONE = ["num_hidden_layers", "n_layers", "model_type"]


@pytest.fixture
def save(tmp_path):
    """Writes a configuration, its fields changed, and those of its backbone."""

    def write(config: FastBertConfig, of_backbone: dict[str, Any] | None = None, **changes) -> Path:
        config.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").touch()
        path = tmp_path / "config.json"
        values = json.loads(path.read_text())
        values = kept(
            values | {"backbone": kept(values["backbone"] | (of_backbone or {}))} | changes
        )
        path.write_text(json.dumps(values))
        return tmp_path

    return write


def kept(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != LEFT_OUT}


def said(read, folder: Path) -> tuple | None:
    """The fields that readers use; None if it is refused."""
    try:
        found = read(folder)
        return (
            found.max_length,
            found.exit_list,
            found.question_list,
            found.windowing,
            found.operating_points,
            found.default_operating_point,
        )
    except InputError:
        return None


SETTINGS = [
    {},
    {"max_length": 128},
    {"teacher_activation": None},
    {"exits": [{"depth": 2}, {"depth": LAYERS}]},
    {"operating_points": {"p": {"thresholds": [0.5, 0.25]}}, "default_operating_point": "p"},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_is_read_without_loading_it(family, save):
    config = tiny_fastbert(family).config
    for settings in SETTINGS:
        config.max_length = 32
        for name, value in settings.items():
            setattr(config, name, value)
        folder = save(config)
        assert isinstance(read_outline(folder), Outline)
        found = said(read_outline, folder)
        assert found == (config.max_length, config.exit_list, config.question_list,
                         config.windowing, config.operating_points,
                         config.default_operating_point)  # fmt: skip


def test_what_the_first_release_saved_is_read_without_loading_it():
    folder = ROOT / "tests" / "data" / "831b513" / "checkpoint"
    assert isinstance(read_outline(folder), Outline)
    assert said(read_outline, folder) == said(load_config, folder) is not None


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_whatever_it_holds_both_find_the_same(family, save):
    """Or loading refuses it, which happens before anything is labelled."""
    config = tiny_fastbert(family).config
    changes = [{name: value} for name, value in product(FIELDS, VALUES)]
    inner = [{name: value} for name, value in product(OF_BACKBONE, VALUES)]
    inner += [{"n_layers": 2, "num_hidden_layers": 1}, {"\ud800": 1}]
    changes += [{"of_backbone": some} for some in inner]
    changes += [{"configuration_files": ["config.4.0.0.json"]}, {"\ud800": 1}]
    other = save(config, max_length=9) / "config.json"
    other.rename(other.with_name("config.4.0.0.json"))
    light = 0
    for change in changes:
        folder = save(config, **change)
        expected = said(load_config, folder)
        if expected is not None:
            assert said(read_outline, folder) == expected, change
            light += isinstance(read_outline(folder), Outline)
    assert light > 30


@pytest.mark.parametrize(
    "change", [{"max_length": "x"}, {"backbone": None}, {"exits": []}], ids=str
)
def test_what_is_refused_is_refused_in_the_same_words(change, save):
    folder = save(tiny_fastbert().config, **change)
    with pytest.raises(InputError) as expected:
        load_config(folder)
    with pytest.raises(InputError) as found:
        _ = read_outline(folder).exit_list
    assert str(found.value) == str(expected.value)


def test_criteria_have_their_names_where_torch_is_not():
    assert tuple(CRITERIA) == CRITERIA_OF["single-label"]
    assert CRITERIA_OF.keys() == PLAIN.keys() == ANSWERS.keys()
    assert all(PLAIN[kind] in known for kind, known in CRITERIA_OF.items())
    assert {*chain(*CRITERIA_OF.values())} >= TEMPERED
