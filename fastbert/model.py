"""FastBERT as a Hugging Face model: a backbone with a classifier at every exit.

Importing this module registers the model with the Auto classes. Used as any sequence classifier
(`forward`, `transformers.pipeline`) it runs at full depth; `inference.engine` makes it adaptive.

Letters: B batch, T tokens, E exits, N numbers that a head gives.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.generic import ModelOutput

from fastbert.configuration import FastBertConfig, asked_of, label_names
from fastbert.encoders import encoder_for
from fastbert.encoders.adopt import Own, own_heads
from fastbert.encoders.pretrained import load_backbone, new_backbone
from fastbert.errors import InputError
from fastbert.exits.bag import Bag
from fastbert.exits.exit import Exit
from fastbert.exits.heads import Branch, Head, JointHead, PooledHead
from fastbert.exits.layout import layout_settings
from fastbert.exits.question import Question
from fastbert.tasks.task import Task


def _loss(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return task.loss(logits, targets)


@dataclass
class FastBertOutput(ModelOutput):
    """The result of `forward`."""

    loss: torch.Tensor | None = None  # of the last exit, mean over rows, if labels were given
    logits: torch.Tensor | None = None  # (B, classes) of the last exit; of a score, itself
    exit_logits: torch.Tensor | None = None  # (E, B, N) of every exit, if requested


class FastBertForSequenceClassification(PreTrainedModel):
    """A backbone and E classifiers; the last one is the teacher, the others its students."""

    config: FastBertConfig
    config_class = FastBertConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    #: The loss is already a mean over rows; Trainer must not rescale it.
    accepts_loss_kwargs = False

    def __init__(self, config: FastBertConfig) -> None:
        super().__init__(config)
        backbone = config.backbone_config()
        self.backbone = new_backbone(backbone, config._attn_implementation)
        self.encoder = encoder_for(backbone)
        self.exits = config.exit_list
        self.questions = config.new_questions()
        #: One per exit.
        self.branches = nn.ModuleList(self._new_head(each) for each in self.exits)
        # DistilBERT has no token types.
        self._takes_types = "token_type_ids" in inspect.signature(self.backbone.forward).parameters
        self._teacher_frozen = False
        self.post_init()

    @classmethod
    def from_backbone(
        cls, name: str, labels: list[str], **settings: Any
    ) -> "FastBertForSequenceClassification":
        """Pre-trained weights `name` with new branches, to be fine-tuned.

        `labels` are the class names by index; `settings` are the `questions`, by default a single
        label, and fields of FastBertConfig.
        """
        model = cls._around(load_backbone(name), labels, **settings)
        last = model.heads[-1]
        assert not isinstance(last, JointHead)
        model.questions.settle(last.classifier)
        return model

    @classmethod
    def from_classifier(
        cls, classifier: PreTrainedModel, question: Question | None = None, **settings: Any
    ) -> "FastBertForSequenceClassification":
        """An existing sequence classifier with new branches; at full depth it is unchanged.

        `question` is what it answers, by default `asked_of` its configuration; `settings` are
        fields of FastBertConfig. Raises InputError for other families, and for models whose head is
        not the family's own, or does not fit the question.
        """
        own = own_heads(classifier)
        questions = [question] if question else [asked_of(each.config) for each in own]
        return cls.from_heads(classifier.base_model, own, questions, **settings)

    @classmethod
    def from_heads(
        cls, backbone: Any, heads: Sequence[Own], questions: Sequence[Question], **settings: Any
    ) -> "FastBertForSequenceClassification":
        """The heads of classifiers that share a backbone, one for each question, with new branches.
        Several questions need different names. Raises InputError as `from_classifier`."""
        pairs = list(zip(heads, questions, strict=True))
        names = [label_names(own.config, question.kind) for own, question in pairs]
        if len(pairs) > 1:
            questions = [
                msgspec.structs.replace(question, classes=len(own))
                for question, own in zip(questions, names, strict=True)
            ]
        labels = [name for own in names for name in own]
        settings = layout_settings([own.head.layout for own in heads]) | settings
        model = cls._around(backbone, labels, questions=questions, **settings)
        last = model.heads[-1]
        mine = list(last.parts) if isinstance(last, JointHead) else [last]
        for part, own, asked in zip(mine, heads, model.questions, strict=True):
            assert isinstance(part, PooledHead)
            part.adopt(own.head, asked.task.take_over)
        return model

    @classmethod
    def _around(
        cls, backbone: PreTrainedModel, labels: list[str], **settings: Any
    ) -> "FastBertForSequenceClassification":
        model = cls(FastBertConfig.of(backbone.config, labels, **settings))
        weights = {k: v for k, v in backbone.state_dict().items() if not k.startswith("pooler.")}
        model.backbone.load_state_dict(weights)
        return model

    @torch.no_grad()
    def begin(self, targets: torch.Tensor) -> None:
        """Initialise the untrained last exit with the frequencies of the targets of n rows (compare
        Lin et al. 2017, section 4.1)."""
        last = self.heads[-1]
        assert not isinstance(last, JointHead)
        last.classifier.bias.copy_(self.questions.prior(targets))

    @property
    def task(self) -> Task:
        """The task of the only question; raises ValueError if there are several."""
        return self.questions.only

    @property
    def heads(self) -> list[Head]:
        """The classifiers, by exit."""
        heads: Any = self.branches
        return list(heads)

    def names(self) -> dict[nn.Module, str]:
        """Names for stored input ranges: the backbone's own names, and heads by their depth, which
        a new exit before all others does not change."""
        names = {module: f"backbone.{name}" for name, module in self.backbone.named_modules()}
        for exit, head in zip(self.exits, self.heads, strict=True):
            names |= {module: f"exits.{exit.depth}.{name}" for name, module in head.named_modules()}
        return names

    def _new_head(self, exit: Exit) -> Head:
        config, width = self.config, self.encoder.width
        if exit.task == "label" and exit.head == "branch":
            return Branch(width, config.branch_size, config.branch_heads, self.questions.numbers)
        layouts = config.head_layouts
        if exit.task == "label" and exit.head == "adopted" and layouts:
            sizes = [asked.task.numbers for asked in self.questions]
            heads = [PooledHead(width, *each) for each in zip(sizes, layouts, strict=True)]
            return heads[0] if len(heads) == 1 else JointHead(heads)
        if exit.task == "label" and exit.head == "bag":
            return config.new_bag()
        raise InputError(
            f"the checkpoint has a head of kind '{exit.head}' at depth {exit.depth}, for the "
            f"question '{exit.task}'; this release supports 'branch', 'bag', and with an adopted "
            "classifier's head 'adopted', all for 'label': use a newer one"
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        all_exits: bool = False,
        as_numbers: bool = False,
        return_dict: bool | None = None,
    ) -> FastBertOutput | tuple[torch.Tensor, ...]:
        """Full depth: token ids (B, T), mask (B, T) with 1 for real tokens, the task's targets of B
        rows.

        With `all_exits` every head is computed as well, not only the last; with `as_numbers` logits
        are the head's own numbers, even if Hugging Face's classifiers give others.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._takes_types:
            inputs["token_type_ids"] = token_type_ids
        mask = None if attention_mask is None else attention_mask.bool()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._teacher_frozen):
            states = self.backbone(**inputs, output_hidden_states=all_exits, return_dict=True)
        logits = self.branches[-1](states.last_hidden_state, mask)  # (B, N)
        every = None
        if all_exits:
            students = zip(self.branches[:-1], self.exits[:-1], strict=True)
            early = [
                head(input_ids if each.head == "bag" else self._read(states, each.depth), mask)
                for head, each in students
            ]
            every = torch.stack([*early, logits])
        loss = None
        if labels is not None:
            loss = self.questions.total(_loss, logits, targets=labels).mean()
        shown = logits if as_numbers else self.questions.shown(logits)
        output = FastBertOutput(loss=loss, logits=shown, exit_logits=every)
        return output.to_tuple() if return_dict is False else output

    def _read(self, states: Any, depth: int) -> torch.Tensor:
        """The input of heads at this depth, from the backbone's output: (B, T, H)."""
        return self.encoder.trained_readout(self.backbone, depth, states.hidden_states[depth])

    def add_bag(self, tokens: torch.Tensor, pairs: torch.Tensor) -> Bag:
        """Add an untrained exit before the first layer, for these ids of tokens (W,) and pairs (P,
        2), or replace an existing one. Operating points stay the same."""
        config = self.config
        config.bag_tokens, config.bag_pairs = len(tokens), len(pairs)
        first = Exit(0, "bag")
        if self.exits[0] == first:
            self.exits, self.branches = self.exits[1:], self.branches[1:]
        bag = config.new_bag()
        bag.tokens.copy_(tokens)
        bag.pairs.copy_(pairs)
        self.branches.insert(0, bag)
        self.exits = (first, *self.exits)
        config.exits = [msgspec.to_builtins(each) for each in self.exits]
        return bag

    def freeze_teacher(self) -> None:
        """Freeze backbone and last classifier: no gradients, and no dropout even in train mode.

        Self-distillation needs the teacher's real answers; the official code leaves dropout on.
        """
        self._teacher_frozen = True
        self.backbone.requires_grad_(False)
        self.branches.requires_grad_(True)
        self.branches[-1].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FastBertForSequenceClassification":
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        if self._teacher_frozen:
            self.backbone.eval()
            self.branches[-1].eval()
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # BERT's std of 0.02 would shrink the signal fourfold per map at a width of 128.
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


AutoModelForSequenceClassification.register(FastBertConfig, FastBertForSequenceClassification)
