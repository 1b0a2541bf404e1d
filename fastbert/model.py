"""FastBERT as a Hugging Face model: a backbone with a classifier at every exit.

Importing this module registers the model with the Auto classes. Used as any sequence classifier
(`forward`, `transformers.pipeline`) it runs at full depth; `inference.engine` makes it adaptive.

Letters: B batch, T tokens, E exits, N classes.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.generic import ModelOutput

from fastbert.configuration import FastBertConfig, label_names
from fastbert.encoders import encoder_for
from fastbert.encoders.mixin import Mixin
from fastbert.encoders.pretrained import load_backbone, new_backbone
from fastbert.errors import InputError, explained
from fastbert.exits.bag import Bag
from fastbert.exits.exit import Exit
from fastbert.exits.heads import Branch, Head, PooledHead
from fastbert.tasks.single_label import SingleLabel


@dataclass
class FastBertOutput(ModelOutput):
    """What `forward` returns."""

    loss: torch.Tensor | None = None  # of the last exit, mean over rows, if labels were given
    logits: torch.Tensor | None = None  # (B, N) of the last exit
    exit_logits: torch.Tensor | None = None  # (E, B, N) of every exit, if asked for


class FastBertForSequenceClassification(PreTrainedModel):
    """A backbone and E classifiers; the last one is the teacher, the others its students."""

    config: FastBertConfig
    config_class = FastBertConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    #: The loss is a mean over rows already; Trainer must not rescale it.
    accepts_loss_kwargs = False

    def __init__(self, config: FastBertConfig) -> None:
        super().__init__(config)
        if config.num_labels is None or config.num_labels < 2:
            raise InputError(f"{config.num_labels} classes; a classifier needs at least two")
        self.num_labels = config.num_labels
        backbone = config.backbone_config()
        self.backbone = new_backbone(backbone, config._attn_implementation)
        self.encoder = encoder_for(backbone)
        self.exits = config.exit_list
        self.task = SingleLabel(config.label_names)
        #: One per exit.
        self.branches = nn.ModuleList(self._new_head(each) for each in self.exits)
        # DistilBERT knows no types of tokens.
        self._takes_types = "token_type_ids" in inspect.signature(self.backbone.forward).parameters
        self._teacher_frozen = False
        self.post_init()

    @classmethod
    def from_backbone(
        cls, name: str, labels: list[str], **settings: Any
    ) -> "FastBertForSequenceClassification":
        """Pre-trained weights `name` with new branches, to be fine-tuned.

        `labels` are the class names by index; `settings` are fields of FastBertConfig.
        """
        return cls._around(load_backbone(name), labels, **settings)

    @classmethod
    def from_classifier(
        cls, classifier: PreTrainedModel, **settings: Any
    ) -> "FastBertForSequenceClassification":
        """An existing sequence classifier with new branches; at full depth it is unchanged.

        Raises InputError for other families, multi-label and regression models, and for models
        whose head is not the family's own.
        """
        config = classifier.config
        encoder = encoder_for(config)
        if (config.problem_type or "single_label_classification") != "single_label_classification":
            raise InputError(
                f"the teacher's problem type is '{config.problem_type}'; "
                "only single-label classifiers can exit early"
            )
        what = f"{type(classifier).__name__} has no classification head"
        with explained(what, "pass a model for sequence classification", AttributeError):
            if isinstance(classifier, Mixin):
                theirs = classifier.heads[0][1]
            else:
                theirs = encoder.head_of(classifier)
        backbone: Any = classifier.base_model
        settings = theirs.layout.settings() | settings
        model = cls._around(backbone, label_names(config), **settings)
        head = model.branches[-1]
        assert isinstance(head, PooledHead)
        head.adopt(theirs)
        return model

    @classmethod
    def _around(
        cls, backbone: PreTrainedModel, labels: list[str], **settings: Any
    ) -> "FastBertForSequenceClassification":
        model = cls(FastBertConfig.of(backbone.config, labels, **settings))
        weights = {k: v for k, v in backbone.state_dict().items() if not k.startswith("pooler.")}
        model.backbone.load_state_dict(weights)
        return model

    @property
    def heads(self) -> list[Head]:
        """The classifiers, by exit."""
        heads: Any = self.branches
        return list(heads)

    def _new_head(self, exit: Exit) -> Head:
        config, width = self.config, self.encoder.width
        if exit.task == "label" and exit.head == "branch":
            return Branch(width, config.branch_size, config.branch_heads, self.num_labels)
        layout = config.head_layout
        if exit.task == "label" and exit.head == "adopted" and layout is not None:
            return PooledHead(width, self.num_labels, layout)
        if exit.task == "label" and exit.head == "bag":
            return config.new_bag()
        raise InputError(
            f"the checkpoint has a head of kind '{exit.head}' at depth {exit.depth}, for the "
            f"question '{exit.task}'; this release knows 'branch', 'bag', and with an "
            "adopted classifier's head 'adopted', all for 'label': use a newer one"
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        all_exits: bool = False,
        return_dict: bool | None = None,
    ) -> FastBertOutput | tuple[torch.Tensor, ...]:
        """Full depth: token ids (B, T), mask (B, T) with 1 for real tokens, labels (B,).

        With `all_exits` every head is computed as well, not only the last.
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
        loss = None if labels is None else self.task.loss(logits, labels).mean()
        output = FastBertOutput(loss=loss, logits=logits, exit_logits=every)
        return output.to_tuple() if return_dict is False else output

    def _read(self, states: Any, depth: int) -> torch.Tensor:
        """What heads at this depth read of the backbone's output: (B, T, H)."""
        return self.encoder.trained_readout(self.backbone, depth, states.hidden_states[depth])

    def add_bag(self, tokens: torch.Tensor, pairs: torch.Tensor) -> Bag:
        """Put an exit that has learnt nothing before the first layer, for these ids of tokens (W,)
        and pairs (P, 2), in place of one that may be there. Operating points stay what they are."""
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
        """Fix backbone and last classifier: no gradients, and no dropout even in train mode.

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
