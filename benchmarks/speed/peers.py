"""Peers of the engine: the official FastBERT algorithm, padding, ONNX Runtime and OpenVINO.

ONNX Runtime, OpenVINO and NNCF are the benchmark's own needs, the extra `peers`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastbert.exits.criteria import normalised_entropy
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification

#: (ids, mask), int64 (n, T) both, to logits (n, N).
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Texts that NNCF measures activations on.
_CALIBRATION_TEXTS = 300


def padded(tokens: Tokens, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int64 (n, width)."""
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for i, row in enumerate(rows):
        span = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        ids[i, : len(span)], mask[i, : len(span)] = span, 1
    return ids, mask


@torch.inference_mode()
def padded_loop(
    model: FastBertForSequenceClassification,
    tokens: Tokens,
    width: int | None = None,
    batch: int = 256,
) -> np.ndarray:
    """What people write: batches in the order of the rows, padded to `width` or to their longest,
    full depth. Labels (n,)."""
    found = []
    for start in range(0, len(tokens), batch):
        rows = np.arange(start, min(start + batch, len(tokens)))
        most = width or int(tokens.lengths[rows].max())
        ids, mask = (torch.from_numpy(x).to(model.device) for x in padded(tokens, rows, most))
        found.append(model(ids, mask).logits.argmax(-1))
    labels: np.ndarray = torch.cat(found).cpu().numpy()
    return labels


def in_batches(forward: Forward, tokens: Tokens, batch: int = 32) -> np.ndarray:
    """Full depth, rows sorted by length, batches padded to their longest: logits (n, N)."""
    order = np.argsort(-tokens.lengths, kind="stable")
    found = []
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        found.append(forward(*padded(tokens, rows, int(tokens.lengths[rows[0]]))))
    return np.concatenate(found)[np.argsort(order)]


class FullDepth(torch.nn.Module):
    """What is exported to ONNX."""

    def __init__(self, model: FastBertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, attention_mask).logits


def export(model: FastBertForSequenceClassification, place: Path) -> None:
    """Full depth as ONNX, fp32."""
    model.backbone.set_attn_implementation("eager")
    ids, names = torch.ones(2, 16, dtype=torch.long), ["input_ids", "attention_mask"]
    # The older of torch's exporters: what the newer one exports gives other logits here.
    torch.onnx.export(
        FullDepth(model).eval(),
        (ids, ids),
        place,
        dynamo=False,
        opset_version=17,
        input_names=names,
        dynamic_axes={name: {0: "rows", 1: "width"} for name in names},
    )
    model.backbone.set_attn_implementation("sdpa")


def onnx_runtime(place: Path) -> dict[str, Forward]:
    """fp32 and dynamically quantised int8, as many threads as torch has."""
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = place.with_suffix(".int8.onnx")
    quantize_dynamic(place, small, per_channel=True, weight_type=QuantType.QInt8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def forward(file: Path) -> Forward:
        session = ort.InferenceSession(file, options)
        names = [given.name for given in session.get_inputs()]

        def run(*inputs: np.ndarray) -> np.ndarray:
            found: np.ndarray = session.run(None, dict(zip(names, inputs, strict=True)))[0]
            return found

        return run

    return {"ONNX Runtime fp32": forward(place), "ONNX Runtime int8": forward(small)}


def openvino(place: Path, texts: Tokens) -> dict[str, Forward]:
    """fp32, bf16, and int8 by NNCF's preset for transformers, calibrated on some of the `texts`;
    as many threads as torch has."""
    import nncf
    import openvino as ov

    core = ov.Core()
    network = core.read_model(place)
    width, few = int(texts.lengths.max()), range(min(_CALIBRATION_TEXTS, len(texts)))
    batches = [padded(texts, np.array([row]), width) for row in few]
    small = nncf.quantize(
        network,
        nncf.Dataset(batches, lambda batch: list(batch)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )

    def forward(model: Any, precision: str) -> Forward:
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        return lambda *inputs: compiled(list(inputs))[0]

    return {
        "OpenVINO fp32": forward(network, "f32"),
        "OpenVINO bf16": forward(network, "bf16"),
        "OpenVINO int8": forward(small, "f32"),
    }


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean token mask (B, T) as the bias (B, 1, 1, T) that Hugging Face's layers add."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None, :]


@torch.inference_mode()
def official(
    model: FastBertForSequenceClassification,
    tokens: Tokens,
    thresholds: np.ndarray | float,
    width: int = 128,
    batch: int = 32,
) -> np.ndarray:
    """The official algorithm: batches in input order, padded to `width`; after each layer the sure
    rows leave, the others are gathered, and the batch goes on with what is left of it.

    For a BERT with an exit after every layer; one that lies before the first is not asked."""
    device, backbone = model.device, model.backbone
    branches = list(model.branches)[-model.encoder.depth :]
    limits = [*np.broadcast_to(thresholds, len(branches) - 1), np.inf]
    labels = torch.zeros(len(tokens), dtype=torch.long, device=device)
    for start in range(0, len(tokens), batch):
        rows = np.arange(start, min(start + batch, len(tokens)))
        ids, mask = (torch.from_numpy(x).to(device) for x in padded(tokens, rows, width))
        mask, left = mask.bool(), torch.from_numpy(rows).to(device)
        hidden = backbone.embeddings(input_ids=ids)
        for layer, branch, limit in zip(backbone.encoder.layer, branches, limits, strict=True):
            hidden = layer(hidden, additive_mask(mask, hidden.dtype))
            log_p = branch(hidden, mask).float().log_softmax(-1)
            labels[left] = log_p.argmax(-1)
            stays = (normalised_entropy(log_p) >= limit).nonzero().flatten()
            if not len(stays):
                break
            hidden, mask, left = hidden[stays], mask[stays], left[stays]
    return labels.cpu().numpy()
