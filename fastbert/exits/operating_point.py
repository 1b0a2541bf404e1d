"""Operating points: where rows leave the network, and what has been promised about it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastbert.configuration import FastBertConfig
from fastbert.errors import InputError
from fastbert.exits.criteria import CRITERION_NAMES, DEFAULT_CRITERION

#: What a promise bounds: rows whose label is not full depth's, or rows that full depth gets right
#: and early exit wrong.
Harm = Literal["disagreement", "accuracy-loss"]


@dataclass(frozen=True)
class Promise:
    """With probability `confidence`, at most `share` of the `rows` drawn like the sample come to
    harm; None stands for all rows that could ever be drawn."""

    share: float
    confidence: float
    rows: int | None = None
    harm: Harm = "disagreement"


@dataclass(frozen=True)
class Evidence:
    """The rows a point was chosen on, and what they say of it."""

    rows: int  # that prove the promise
    broken: int  # of these come to harm
    bound: float  # upper, on the share of all
    exits: list[int]  # rows that leave at layer 1 .. L
    flops_speedup: float  # full depth's FLOPs by these
    corpus: str
    precision: str
    date: str  # UTC, ISO 8601


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds of the layers but the last, on a criterion of uncertainty."""

    name: str
    thresholds: list[float]  # L - 1
    criterion: str = DEFAULT_CRITERION
    promise: Promise | None = None
    evidence: Evidence | None = None

    @classmethod
    def asked(
        cls, config: FastBertConfig, speed: float | None, name: str | None
    ) -> "OperatingPoint":
        """That of a speed, or one that the checkpoint holds; InputError as `of_checkpoint`."""
        return cls.of_checkpoint(config, name) if speed is None else cls.of_speed(speed, config)

    @classmethod
    def of_speed(cls, speed: float, config: FastBertConfig) -> "OperatingPoint":
        """The paper's: one threshold on the normalised entropy."""
        return cls(f"speed {speed:g}", [speed] * (_layers(config) - 1))

    @classmethod
    def of_checkpoint(cls, config: FastBertConfig, name: str | None) -> "OperatingPoint":
        """One that the checkpoint holds, by default its default one.

        Raises InputError if there is none of that name, or if it does not fit the model.
        """
        points = config.operating_points or {}
        name = name or config.default_operating_point
        if name is None:
            raise InputError(
                "the checkpoint has no default operating point; pass --speed (0 is full depth, 1 "
                "is fastest) or --operating-point, or make one with fastbert calibrate"
            )
        if name not in points:
            raise InputError(
                f"the checkpoint has no operating point '{name}'; it has "
                f"{', '.join(points) or 'none'}; --speed needs none"
            )
        try:
            found = cls(name=name, **points[name])
            return cls(
                name,
                [float(threshold) for threshold in found.thresholds],
                _known(found.criterion),
                Promise(**found.promise) if isinstance(found.promise, dict) else None,
                Evidence(**found.evidence) if isinstance(found.evidence, dict) else None,
            )._fitting(config)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the checkpoint's operating point '{name}' cannot be used: {error}; calibrate it "
                "again or pass --speed"
            ) from error

    def _fitting(self, config: FastBertConfig) -> "OperatingPoint":
        if len(self.thresholds) != _layers(config) - 1:
            raise ValueError(
                f"it has {len(self.thresholds)} thresholds, expected {_layers(config) - 1}"
            )
        return self

    def settings(self) -> dict[str, Any]:
        """As a checkpoint's config.json holds it, under its name."""
        values = asdict(self)
        del values["name"]
        return values


def _known(criterion: str) -> str:
    if criterion not in CRITERION_NAMES:
        raise ValueError(f"its criterion is '{criterion}', not {', '.join(CRITERION_NAMES)}")
    return criterion


def _layers(config: FastBertConfig) -> int:
    layers: int = config.backbone_config().num_hidden_layers
    return layers
