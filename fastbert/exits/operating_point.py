"""Operating points: where rows leave the network, and what has been promised about it."""

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

#: What a promise bounds: rows whose answer is not full depth's, or rows that full depth gets right
#: and early exit wrong.
Harm = Literal["disagreement", "accuracy-loss"]


#: What of a point says where rows leave.
WHERE = ("criterion", "thresholds", "temperatures", "within")


@dataclass(frozen=True)
class Promise:
    """With probability `confidence`, at most `share` of the `rows` drawn like the sample come to
    harm; None stands for all rows that could ever be drawn."""

    share: float
    confidence: float
    rows: int | None = None
    harm: Harm = "disagreement"
    #: The precision of the full depth that answers are compared with; None: the point's own.
    against: str | None = None


@dataclass(frozen=True)
class Evidence:
    """The rows a point was chosen on, and what they say of it."""

    rows: int  # that prove the promise
    broken: int  # of these come to harm
    bound: float  # upper, on the share of all
    exits: list[int]  # rows that leave at each exit
    flops_speedup: float  # full depth's FLOPs by these
    corpus: str
    precision: str
    date: str  # UTC, ISO 8601
    exit_depths: list[int] | None = None  # of `exits`; None, in older checkpoints: 1 to L


class Configuration(Protocol):
    """What a checkpoint's configuration says of its rows' length, its exits and its points."""

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
    """Thresholds of the exits but the last, on a criterion of uncertainty."""

    name: str
    thresholds: list[float]  # E - 1
    criterion: str = "entropy"
    promise: Promise | None = None
    evidence: Evidence | None = None
    exit_depths: list[int] | None = None  # of all exits; None, in older checkpoints: 1 to L
    temperatures: list[float] | None = None  # E - 1, of tempered criteria
    within: list[float] | None = None  # of a score: its tolerance, or its cut-offs
    #: Of several questions, by name; then there is nothing but `ranges` in the point itself.
    questions: "dict[str, OperatingPoint] | None" = None
    #: What 8-bit linear maps keep their inputs to, by name. None: a scale for each token.
    ranges: dict[str, Range] | None = None

    @classmethod
    def asked(
        cls,
        config: Configuration,
        speed: float | None,
        name: str | None,
        exits: str = PAPER_EXITS,
    ) -> "OperatingPoint":
        """That of a speed at some exits, or one that the checkpoint holds; InputError as
        `of_checkpoint`."""
        if speed is None:
            return cls.of_checkpoint(config, name)
        return cls.of_speed(speed, config, exits)

    @classmethod
    def of_speed(
        cls, speed: float, config: Configuration, exits: str = PAPER_EXITS
    ) -> "OperatingPoint":
        """The paper's: one threshold on the normalised entropy, at exits as `chosen` names them.
        The paper has none before the first layer. InputError for the speed of a score, except 0."""
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
        """One for several questions, from one of each."""
        depths = next(iter(points.values())).exit_depths
        return cls(name, [], "", exit_depths=depths, questions=points)

    @classmethod
    def of_checkpoint(cls, config: Configuration, name: str | None) -> "OperatingPoint":
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
        advice = "make one again with fastbert calibrate, or pass --speed"
        what = f"the checkpoint's operating point '{name}' cannot be used"
        with explained(what, advice, TypeError, ValueError):
            values = {**points[name], "name": name}
            parts = [values, *(values.get("questions") or {}).values()]
            if unknown := {*chain(*parts)} - {each.name for each in fields(cls)}:
                raise ValueError(f"it has '{min(unknown)}', which this release does not know")
            return msgspec.convert(values, cls)._fitting(config.exit_list, config.question_list)

    @classmethod
    def with_thresholds(
        cls,
        config: Configuration,
        wanted: Mapping[str, Any],
    ) -> "OperatingPoint | None":
        """The checkpoint's point where rows leave as in `wanted`, which has what `WHERE` names; the
        default one first, None if there is none."""
        points = config.operating_points or {}
        for name in sorted(points, key=lambda name: name != config.default_operating_point):
            with suppress(InputError):  # points that cannot be used
                found = cls.of_checkpoint(config, name)
                if all(wanted.get(key) == value for key, value in found.where().items()):
                    return found
        return None

    @property
    def proven_in(self) -> str | None:
        """The precision that the evidence was found in."""
        first = self.each()[0]
        return first.evidence.precision if first.evidence else None

    def where(self) -> dict[str, Any]:
        """What says where rows leave, as recipes hold it."""
        own = {key: getattr(self, key) for key in WHERE}
        several = {name: point.where() for name, point in (self.questions or {}).items()}
        return own | {"questions": several or None}

    def each(self) -> "list[OperatingPoint]":
        """Itself, or those of several questions."""
        return [*self.questions.values()] if self.questions else [self]

    def _fitting(self, exits: Sequence[Exit], questions: Sequence[Question]) -> "OperatingPoint":
        """Itself, with its depths; ValueError where it is not a point on these exits, for such
        questions."""
        for name, span in (self.ranges or {}).items():
            if not -math.inf < span.least <= span.most < math.inf or min(span.apart, default=0) < 0:
                raise ValueError(f"its range for {name} is {span}")
        names = [each.name for each in questions]
        if self.questions is None and names == [""]:
            return self._fitting_one(exits, questions[0])
        if self.questions is None or {*self.questions} != {*names}:
            raise ValueError(f"it is about the questions {[*(self.questions or {})]}, not {names}")
        points = {  # in the order of the questions: config.json sorts them
            each.name: self.questions[each.name]._fitting_one(exits, each) for each in questions
        }
        return replace(self.of_questions(self.name, points), ranges=self.ranges)

    def _fitting_one(self, exits: Sequence[Exit], question: Question) -> "OperatingPoint":
        if self.criterion not in (known := CRITERIA_OF[question.kind]):
            raise ValueError(f"its criterion is '{self.criterion}', not {', '.join(known)}")
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
            raise ValueError(f"its evidence is of {found} exits, expected {len(exits)}")
        if self.exit_depths not in (None, depths):
            raise ValueError(f"its exits lie at depths {self.exit_depths}, the model's at {depths}")
        return replace(self, exit_depths=depths)

    def with_bag(self) -> "OperatingPoint":
        """The same where an exit is put before all others, which it does not use."""
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
        """What it makes the engine do."""
        return Threshold.of(self.thresholds, self.criterion, self.temperatures, self.within)

    def rules(self) -> list[Threshold]:
        """The same for each question."""
        return [point.rule() for point in self.each()]

    def settings(self) -> dict[str, Any]:
        """As a checkpoint's config.json holds it, under its name."""
        values = asdict(self)
        del values["name"]
        if self.ranges is None:  # earlier releases do not know them
            del values["ranges"]
        return values
