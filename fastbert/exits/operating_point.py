"""Operating points: where rows leave the network, and the promise about it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, Literal, Protocol

import msgspec

from fastbert.errors import InputError, explained
from fastbert.exits.exit import PAPER_EXITS, Exit, chosen
from fastbert.exits.question import Question
from fastbert.exits.rules import CRITERIA_OF, PLAIN, TEMPERED, WITHIN, Threshold
from fastbert.exits.windows import Windows
from fastbert.packed.input_range import Range

#: The harm that a promise bounds: rows whose answer is not full depth's, or rows that full depth
#: gets right and early exit wrong.
Harm = Literal["disagreement", "accuracy-loss"]


#: Fields of a point that decide where rows leave.
WHERE = ("criterion", "thresholds", "temperatures", "within")


@dataclass(frozen=True)
class Promise:
    """With probability `confidence`, at most `share` of the `rows` drawn like the sample are
    harmed; None: of all rows that could be drawn."""

    share: float
    confidence: float
    rows: int | None = None
    harm: Harm = "disagreement"
    #: The precision of the full depth to compare answers with; None: the point's own.
    against: str | None = None


@dataclass(frozen=True)
class Evidence:
    """Evidence for a point: the rows it was chosen on, and their results."""

    rows: int  # for the proof
    broken: int  # of these harmed
    bound: float  # upper, on the share of all
    exits: list[int]  # rows that leave at each exit
    flops_speedup: float  # full depth's FLOPs divided by these
    corpus: str
    precision: str
    date: str  # UTC, ISO 8601
    exit_depths: list[int] | None = None  # of `exits`; None, in older checkpoints: 1 to L


class Configuration(Protocol):
    """A checkpoint's configuration: the length of its rows, its exits and its points."""

    @property
    def max_length(self) -> int: ...

    @property
    def operating_points(self) -> dict[str, Any] | None: ...

    @property
    def default_operating_point(self) -> str | None: ...

    @property
    def exit_list(self) -> tuple[Exit, ...]: ...

    @property
    def question_list(self) -> tuple[Question, ...]: ...

    @property
    def label_names(self) -> list[str]: ...

    @property
    def windowing(self) -> Windows | None: ...


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds of all exits except the last, on a criterion of uncertainty."""

    name: str
    thresholds: list[float]  # E - 1
    criterion: str = "entropy"
    promise: Promise | None = None
    evidence: Evidence | None = None
    exit_depths: list[int] | None = None  # of all exits; None, in older checkpoints: 1 to L
    temperatures: list[float] | None = None  # E - 1, of tempered criteria
    within: list[float] | None = None  # of a score: its tolerance, or its cut-offs
    #: Points of several questions, by name; the point itself then has only `ranges`.
    questions: "dict[str, OperatingPoint] | None" = None
    #: Input ranges of 8-bit linear maps, by name. None: a scale for each token.
    ranges: dict[str, Range] | None = None

    @classmethod
    def asked(
        cls,
        config: Configuration,
        speed: float | None,
        name: str | None,
        exits: str = PAPER_EXITS,
    ) -> "OperatingPoint":
        """The point of a speed at chosen exits, or one of the checkpoint's; raises InputError as
        `of_checkpoint`."""
        if speed is None:
            return cls.of_checkpoint(config, name)
        return cls.of_speed(speed, config, exits)

    @classmethod
    def of_speed(
        cls, speed: float, config: Configuration, exits: str = PAPER_EXITS
    ) -> "OperatingPoint":
        """The paper's point: one threshold on the normalised entropy, at exits in the syntax of
        `chosen`. The paper has none before the first layer. Raises InputError for the speed of a
        score, except 0."""
        questions, name = config.question_list, f"speed {speed:g}"
        if speed and any(each.kind == "score" for each in questions):
            raise InputError(
                f"--speed is {speed:g}, a threshold on an entropy, which a score does not have; "
                "pass 0 for full depth, or an --operating-point of fastbert calibrate --tolerance "
                "or --cutoff"
            )
        used = chosen(exits, config.exit_list)[:-1]
        depths = [each.depth for each in config.exit_list]
        thresholds = [speed * on for on in used]
        points = {
            each.name: cls(each.name or name, thresholds, PLAIN[each.kind], exit_depths=depths)
            for each in questions
        }
        return points[""] if len(points) == 1 and "" in points else cls.of_questions(name, points)

    @classmethod
    def of_questions(cls, name: str, points: "dict[str, OperatingPoint]") -> "OperatingPoint":
        """A point for several questions, from one of each."""
        depths = next(iter(points.values())).exit_depths
        return cls(name, [], "", exit_depths=depths, questions=points)

    @classmethod
    def of_checkpoint(cls, config: Configuration, name: str | None) -> "OperatingPoint":
        """A point of the checkpoint, by default its default one.

        Raises InputError if none has this name, or if it does not fit the model.
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
        advice = "make one again with fastbert calibrate, or pass --speed"
        what = f"the checkpoint's operating point '{name}' cannot be used"
        with explained(what, advice, TypeError, ValueError):
            values = {**points[name], "name": name}
            parts = [values, *(values.get("questions") or {}).values()]
            if unknown := {*chain(*parts)} - {each.name for each in fields(cls)}:
                raise ValueError(f"it has '{min(unknown)}', unknown to this release")
            return msgspec.convert(values, cls)._fitting(config.exit_list, config.question_list)

    @classmethod
    def with_thresholds(
        cls,
        config: Configuration,
        wanted: Mapping[str, Any],
    ) -> "OperatingPoint | None":
        """The checkpoint's point where rows leave as in `wanted`, a dict of the fields in `WHERE`;
        the default one first; None if there is none."""
        points = config.operating_points or {}
        for name in sorted(points, key=lambda name: name != config.default_operating_point):
            with suppress(InputError):  # unusable points
                found = cls.of_checkpoint(config, name)
                if all(wanted.get(key) == value for key, value in found.where().items()):
                    return found
        return None

    @property
    def at_full_depth(self) -> bool:
        """Whether all rows pass all layers."""
        return not any(threshold > 0 for each in self.each() for threshold in each.thresholds)

    @property
    def proven_in(self) -> str | None:
        """The precision of the evidence."""
        first = self.each()[0]
        return first.evidence.precision if first.evidence else None

    def where(self) -> dict[str, Any]:
        """The fields that decide where rows leave, as in recipes."""
        own = {key: getattr(self, key) for key in WHERE}
        several = {name: point.where() for name, point in (self.questions or {}).items()}
        return own | {"questions": several or None}

    def each(self) -> "list[OperatingPoint]":
        """Itself, or the points of several questions."""
        return [*self.questions.values()] if self.questions else [self]

    def _fitting(self, exits: Sequence[Exit], questions: Sequence[Question]) -> "OperatingPoint":
        """Itself, with its depths; raises ValueError if it does not fit these exits and
        questions."""
        for name, span in (self.ranges or {}).items():
            if not -math.inf < span.least <= span.most < math.inf or min(span.apart, default=0) < 0:
                raise ValueError(f"its range for {name} is {span}")
        names = [each.name for each in questions]
        if self.questions is None and names == [""]:
            return self._fitting_one(exits, questions[0])
        if self.questions is None or {*self.questions} != {*names}:
            raise ValueError(
                f"it is for the questions {[*(self.questions or {})]}, expected {names}"
            )
        points = {  # in the order of the questions: config.json sorts them
            each.name: self.questions[each.name]._fitting_one(exits, each) for each in questions
        }
        return replace(self.of_questions(self.name, points), ranges=self.ranges)

    def _fitting_one(self, exits: Sequence[Exit], question: Question) -> "OperatingPoint":
        if self.criterion not in (known := CRITERIA_OF[question.kind]):
            raise ValueError(f"its criterion is '{self.criterion}', expected {', '.join(known)}")
        numbers = self.within or []
        if not all(map(math.isfinite, numbers)) or bool(numbers) != (self.criterion in WITHIN):
            raise ValueError(f"it is within {numbers} for the criterion '{self.criterion}'")
        if len(self.thresholds) != len(exits) - 1:
            raise ValueError(f"it has {len(self.thresholds)} thresholds, expected {len(exits) - 1}")
        soft = self.temperatures
        if (soft is not None) != (self.criterion in TEMPERED):
            raise ValueError(f"its temperatures are {soft} for the criterion '{self.criterion}'")
        if soft is not None and (
            len(soft) != len(exits) - 1 or not all(0 < each < math.inf for each in soft)
        ):
            raise ValueError(f"its temperatures are {soft}, expected {len(exits) - 1} above 0")
        if not all(map(math.isfinite, self.thresholds)):
            raise ValueError(f"its thresholds are {self.thresholds}, expected finite numbers")
        depths = [each.depth for each in exits]
        if self.evidence and len(self.evidence.exits) != len(exits):
            found = len(self.evidence.exits)
            raise ValueError(f"its evidence is for {found} exits, expected {len(exits)}")
        if self.exit_depths not in (None, depths):
            raise ValueError(f"its exits lie at depths {self.exit_depths}, the model's at {depths}")
        return replace(self, exit_depths=depths)

    def with_bag(self) -> "OperatingPoint":
        """The point after an exit was added before all others; it does not use that one."""
        if self.questions:
            each = {name: point.with_bag() for name, point in self.questions.items()}
            return replace(self.of_questions(self.name, each), ranges=self.ranges)
        evidence = self.evidence
        if evidence:
            depths = evidence.exit_depths or list(range(1, len(evidence.exits) + 1))
            evidence = replace(evidence, exits=[0, *evidence.exits], exit_depths=[0, *depths])
        soft = None if self.temperatures is None else [1.0, *self.temperatures]
        return replace(
            self,
            thresholds=[0.0, *self.thresholds],
            temperatures=soft,
            evidence=evidence,
            exit_depths=[0, *(self.exit_depths or range(1, len(self.thresholds) + 2))],
        )

    def rule(self) -> Threshold:
        """The engine's rule at this point."""
        return Threshold.of(self.thresholds, self.criterion, self.temperatures, self.within)

    def rules(self) -> list[Threshold]:
        """The same for each question."""
        return [point.rule() for point in self.each()]

    def settings(self) -> dict[str, Any]:
        """As stored in a checkpoint's config.json, under its name."""
        values = asdict(self)
        del values["name"]
        if self.ranges is None:  # unknown to earlier releases
            del values["ranges"]
        return values
