"""Classifiers that are published as a mixin, not as a Hugging Face model: NVIDIA's layouts.

They were saved by `huggingface_hub.PyTorchModelHubMixin`: their config.json names the model that
the backbone was (`base_model`), whose own configuration says how it is built; the weights, all of
them, lie beside it. There are two layouts:

* `fc_dropout`: a linear map `fc` on the first token of the backbone `model`, as the domain and
  quality classifiers have it;
* `target_sizes`: one linear map `head_0.fc`, `head_1.fc` … for each question, on the mean of all
  tokens of the backbone `backbone`, as the classifier of prompts has it.
"""

from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.encoders.pretrained import new_backbone, read_config
from fastbert.errors import InputError, explained
from fastbert.exits.heads import ClassifierHead
from fastbert.exits.layout import HeadLayout


class Mixin(PreTrainedModel):
    """A backbone and what reads it. It holds weights that are adopted, and answers nothing."""

    _supports_sdpa = True

    #: The questions that it answers, and what answers each.
    heads: list[tuple[str, ClassifierHead]]

    def __init__(self, config: PreTrainedConfig, questions: dict[str, int]) -> None:
        """`questions`, and how many classes each has."""
        super().__init__(config)
        self.add_module(self.base_model_prefix, new_backbone(config, config._attn_implementation))
        self.heads = []
        for k, (question, classes) in enumerate(questions.items()):
            self.heads.append((question, self._add_head(k, nn.Linear(config.hidden_size, classes))))
        self.post_init()

    def _add_head(self, k: int, output: nn.Linear) -> ClassifierHead:
        """Put the map for question k where its weights are saved."""
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
    config: PreTrainedConfig  # the backbone's, with names of the classes
    questions: dict[str, int]  # and how many classes each has


def read_mixin(source: str, settings: dict[str, Any]) -> Published | None:
    """What a config.json of `settings`, that of `source`, describes; None if it is no mixin's.

    Raises InputError if the configuration of its backbone cannot be read, or if it answers several
    questions, for which a checkpoint has no place yet.
    """
    if "base_model" not in settings or not settings.keys() & {"fc_dropout", "target_sizes"}:
        return None
    config = _backbone_config(source, str(settings["base_model"]))
    with explained(f"config.json of '{source}' cannot be read", "expected NVIDIA's", Exception):
        if "target_sizes" in settings:
            questions = {name: int(size) for name, size in settings["target_sizes"].items()}
            names = settings.get("task_type_map") if "task_type" in questions else None
        else:
            questions, names = {"label": 0}, settings.get("id2label")
        if len(questions) > 1:
            raise InputError(
                f"'{source}' answers {len(questions)} questions ({', '.join(questions)}), expected "
                "one; save a copy that has one of them only, as head_0.fc, in target_sizes, too"
            )
        question, size = next(iter(questions.items()))
        # Without names two, as Hugging Face counts them.
        numbered = {int(k): name for k, name in (names or {}).items()}
        questions[question] = config.num_labels = len(numbered) or size or 2
        if numbered:
            config.id2label = numbered
            config.label2id = {name: k for k, name in numbered.items()}
    kind = MeanMixin if "target_sizes" in settings else FirstTokenMixin
    return Published(kind, config, questions)


def _backbone_config(source: str, base: str) -> PreTrainedConfig:
    try:
        return read_config("backbone", base)
    except InputError as error:
        raise InputError(
            f"'{source}' leaves to '{base}' how its backbone is built, and that cannot be read "
            f"({error}); put the config.json of '{base}' into a folder, and name that folder as "
            f"base_model in the config.json of a copy of '{source}'"
        ) from error
