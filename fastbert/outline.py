"""The part of a checkpoint that a run needs before it knows whether there are rows to label.

Loading a whole configuration imports torch and transformers, which takes longer than a run with
nothing to do.
"""

from pathlib import Path
from typing import Any

import msgspec

from fastbert.checkpoint import read_settings
from fastbert.exits.exit import Exit, exits_of
from fastbert.exits.operating_point import Configuration
from fastbert.exits.question import Question, questions_of
from fastbert.exits.windows import Windows, windows_of


class Outline(msgspec.Struct, frozen=True):
    """The fields of `config.json` about where rows may leave, and their longest length.

    The rest is unchecked: loading the model checks everything.
    """

    layers: int
    max_length: int
    exits: list[dict[str, Any]] | None = None
    id2label: dict[str, str] | None = None
    questions: list[dict[str, Any]] | None = None
    problem_type: str | None = None
    teacher_activation: str | None = None
    adopted_heads: list[dict[str, Any]] | None = None
    windows: dict[str, Any] | None = None
    operating_points: dict[str, Any] | None = None
    default_operating_point: str | None = None
    #: Files that transformers reads in place of config.json.
    configuration_files: None = None

    @property
    def exit_list(self) -> tuple[Exit, ...]:
        """As in `FastBertConfig`."""
        adopted = bool(self.adopted_heads or self.teacher_activation)
        return exits_of(self.exits, self.layers, adopted)

    @property
    def label_names(self) -> list[str]:
        """As in `FastBertConfig`."""
        names = self.id2label or {"0": "LABEL_0", "1": "LABEL_1"}
        return [names[str(k)] for k in range(len(names))]

    @property
    def windowing(self) -> Windows | None:
        """As in `FastBertConfig`."""
        return windows_of(self.windows, self.max_length)

    @property
    def question_list(self) -> tuple[Question, ...]:
        """As in `FastBertConfig`."""
        return questions_of(self.questions, self.problem_type)


def read_outline(folder: Path) -> Configuration:
    """The outline of the checkpoint in `folder`. An unusual or invalid one is loaded as a whole:
    raises InputError as `load_config`."""
    settings = read_settings(folder)
    try:
        backbone = settings["backbone"]
        if backbone["model_type"] == "distilbert":
            backbone = {"num_hidden_layers": backbone.get("n_layers")} | backbone
        found = settings | {"layers": backbone["num_hidden_layers"]}
        return msgspec.convert(found, Outline)
    except (LookupError, TypeError, ValueError):
        from fastbert.configuration import load_config

        return load_config(folder)
