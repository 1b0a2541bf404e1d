"""Classifiers that are published as a mixin, not as a Hugging Face model: NVIDIA's layouts.

They were saved by `huggingface_hub.PyTorchModelHubMixin`: their config.json names the original
backbone (`base_model`), whose configuration has its architecture; all weights are beside it. There
are two layouts:

* `fc_dropout`: a linear map `fc` on the first token of the backbone `model`, as in the domain and
  quality classifiers;
* `target_sizes`: one linear map `head_0.fc`, `head_1.fc` … for each question, on the mean of all
  tokens of the backbone `backbone`, as in the classifier of prompts. One of its questions has a
  single class, and is left out.
"""

import logging
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.encoders.pretrained import new_backbone, read_config
from fastbert.errors import InputError, explained
from fastbert.exits.heads import ClassifierHead
from fastbert.exits.layout import HeadLayout

log = logging.getLogger(__name__)


class Mixin(PreTrainedModel):
    """A backbone and its heads. It only holds weights for adoption, and computes nothing."""

    _supports_sdpa = True

    #: The questions that it answers: name, names of the classes, and head.
    heads: list[tuple[str, PreTrainedConfig, ClassifierHead]]

    def __init__(self, config: PreTrainedConfig, questions: dict[str, list[str]]) -> None:
        """`questions`, and the names of their classes."""
        super().__init__(config)
        self.add_module(self.base_model_prefix, new_backbone(config, config._attn_implementation))
        self.heads = []
        for k, (question, names) in enumerate(questions.items()):
            head = self._add_head(k, nn.Linear(config.hidden_size, len(names)))
            if len(names) == 1 < len(questions):
                log.warning("question '%s' has only one class, and is left out", question)
                continue
            own = PreTrainedConfig(id2label=dict(enumerate(names)))
            self.heads.append((question if len(questions) > 1 else "", own, head))
        self.post_init()

    def _add_head(self, k: int, output: nn.Linear) -> ClassifierHead:
        """Set the map for question k under the name of its saved weights."""
        raise NotImplementedError


class FirstTokenMixin(Mixin):
    """The layout with `fc_dropout`."""

    base_model_prefix = "model"

    def _add_head(self, k: int, output: nn.Linear) -> ClassifierHead:
        self.fc = output
        return ClassifierHead(HeadLayout(), output)


class MeanMixin(Mixin):
    """The layout with `target_sizes`."""

    base_model_prefix = "backbone"

    def _add_head(self, k: int, output: nn.Linear) -> ClassifierHead:
        self.add_module(f"head_{k}", nn.ModuleDict({"fc": output}))
        return ClassifierHead(HeadLayout(pooling="mean"), output)


class Published(NamedTuple):
    """A mixin as its config.json describes it."""

    kind: type[Mixin]
    config: PreTrainedConfig  # the backbone's
    questions: dict[str, list[str]]  # with the names of their classes


def read_mixin(source: str, settings: dict[str, Any]) -> Published | None:
    """The mixin described by `settings`, the config.json of `source`; None if it is not a mixin's.

    Raises InputError if it, or the configuration of its backbone, cannot be read.
    """
    if "base_model" not in settings or not settings.keys() & {"fc_dropout", "target_sizes"}:
        return None
    config = _backbone_config(source, str(settings["base_model"]))
    with explained(f"config.json of '{source}' cannot be read", "expected NVIDIA's", Exception):
        if "target_sizes" in settings:
            tasks = _names(settings.get("task_type_map") or {})
            questions = {
                name: tasks if name == "task_type" and tasks else [str(k) for k in range(int(size))]
                for name, size in settings["target_sizes"].items()
            }
            return Published(MeanMixin, config, questions)
        # Two classes without names, as in Hugging Face.
        names = _names(settings.get("id2label") or {}) or ["LABEL_0", "LABEL_1"]
        return Published(FirstTokenMixin, config, {"label": names})


def _names(numbered: dict[str, str]) -> list[str]:
    names = {int(k): name for k, name in numbered.items()}
    return [names[k] for k in range(len(names))]


def _backbone_config(source: str, base: str) -> PreTrainedConfig:
    try:
        return read_config("backbone", base)
    except InputError as error:
        raise InputError(
            f"the backbone of '{source}' has the configuration of '{base}', which cannot be read "
            f"({error}); put the config.json of '{base}' into a folder, and set that folder as "
            f"base_model in the config.json of a copy of '{source}'"
        ) from error
