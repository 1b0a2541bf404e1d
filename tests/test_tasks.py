"""Several labels and scores: what engines answer, when they let rows leave, and what is written,
against the formulas in plain Python; each property fails for an engine with a bug."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import FAMILIES, LAYERS, random_tokens, tiny_classifier, tiny_fastbert, with_bag
from support.reference import all_logits

from fastbert.calibration.evaluation import ExitOutputs, exit_outputs
from fastbert.calibration.points import promised_point, sample_of
from fastbert.calibration.temperatures import fit_temperatures
from fastbert.exits.operating_point import Promise
from fastbert.exits.question import ANSWERS, Question
from fastbert.exits.rules import Threshold
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.tasks import task_of
from fastbert.tasks.task import answer

CUTOFFS = [0.5, 0.3, 0.9, 0.5, 0.6]
QUESTIONS = {
    "several-labels": Question("several-labels", cutoffs=CUTOFFS),
    "score": Question("score", centre=2.5, scale=1.7),
}
LABELS = {"several-labels": 5, "score": 1}
#: By kind: a criterion that looks at one exit, and those that remember, with their numbers.
RULES: dict[str, list[tuple[str, tuple[float, ...]]]] = {
    "several-labels": [("entropy", ()), ("tempered-entropy", ())],
    "score": [("spread", ()), ("tolerance", (0.8,)), ("cutoff", (2.2, 3.1))],
}
KINDS = [(kind, *rule) for kind, rules in RULES.items() for rule in rules]
PROPERTY = settings(max_examples=8, deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(2, 23), min_size=1, max_size=12)


@cache
def model(kind: str, family: str = "bert", bag: bool = False):
    made = tiny_fastbert(family, labels=LABELS[kind], question=QUESTIONS[kind])
    return (with_bag(made) if bag else made).double()


def engine(kind: str, family: str = "bert", cls: type[Engine] = Engine, bag: bool = False) -> Any:
    built = cls(model(kind, family, bag), dtype=torch.float64, batch_tokens=50, pool_tokens=130)
    built.model = model(kind, family, bag)
    return built


def rule_of(exits: int, threshold: float, criterion: str, within: tuple[float, ...]) -> Threshold:
    soft = None if criterion in ("entropy", "spread") else np.geomspace(0.5, 1.7, exits - 1)
    return Threshold.of(np.full(exits - 1, threshold), criterion, soft, within)


# The reference.


@dataclass
class Said:
    answer: Any  # labels as a set, or the score
    uncertainty: float


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def softened(kind: str, logits: list[float], temperature: float) -> list[float]:
    if kind == "score":
        return [logits[0], logits[1] + math.log(temperature)]
    edges = [logit(c) for c in CUTOFFS]
    return [(z - edge) / temperature + edge for z, edge in zip(logits, edges, strict=True)]


def said(kind: str, logits: list[float], criterion: str, within: tuple[float, ...]) -> Said:
    """One exit's answer, and how unsure it is."""
    if kind == "several-labels":
        edges = [logit(c) for c in CUTOFFS]
        above = [z - edge for z, edge in zip(logits, edges, strict=True)]
        p = 1 / (1 + math.exp(-min(map(abs, above))))
        unsure = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        return Said({k for k, far in enumerate(above) if far > 0}, unsure)
    question = QUESTIONS["score"]
    value = question.centre + question.scale * logits[0]
    spread = question.scale * math.exp(logits[1])
    if criterion == "spread":
        return Said(value, spread / (1 + spread))
    near = within[0] if criterion == "tolerance" else min(abs(value - each) for each in within)
    return Said(value, math.erfc(near / spread / math.sqrt(2)))


def heard(kind: str, rule: Threshold, logits: np.ndarray) -> list[list[float]]:
    """What decides at each exit: a mean of what was said so far, each counting 0.3 times the next;
    the last exit's own."""
    if rule.temperatures is None:
        return logits.tolist()
    soft = [softened(kind, z, t) for z, t in zip(logits.tolist(), rule.temperatures, strict=False)]
    found = []
    for exit in range(len(soft)):
        weights = [0.3 ** (exit - k) for k in range(exit + 1)]
        sums = [
            sum(w * z[i] for w, z in zip(weights, soft, strict=False)) for i in range(len(soft[0]))
        ]
        found.append([total / sum(weights) for total in sums])
    return [*found, logits[-1].tolist()]


def expected(kind: str, rule: Threshold, logits: np.ndarray) -> tuple[int, Said]:
    every = [said(kind, z, rule.criterion, rule.within) for z in heard(kind, rule, logits)]
    for exit, each in enumerate(every[:-1]):
        if each.uncertainty < rule.thresholds[exit]:
            return exit, each
    return len(every) - 1, every[-1]


def between(kind: str, exits: list[np.ndarray], rule: Threshold, share: float) -> float:
    """A threshold in a gap, below which about this share of all uncertainties lies."""
    seen = sorted(
        said(kind, z, rule.criterion, rule.within).uncertainty
        for logits in exits
        for z in heard(kind, rule, logits)[:-1]
    )
    edges = np.array([0.0, *seen, 1.0])
    middles = ((edges[1:] + edges[:-1]) / 2)[np.diff(edges) > 1e-6]
    return float(middles[np.abs(middles - np.quantile(edges, share)).argmin()])


def logits_of(engine: Any, tokens: Tokens) -> list[np.ndarray]:
    return [all_logits(engine.model, tokens, i).numpy() for i in range(len(tokens))]


def matches(kind: str, answer: Any, wanted: Any) -> bool:
    if kind == "score":
        return math.isclose(answer["value"], wanted, abs_tol=1e-5)
    return {*np.flatnonzero(answer["labels"]).tolist()} == wanted


# The properties.


def check_exits_equal_the_reference(engine: Any, tokens: Tokens, share: float, *rule: Any) -> None:
    kind, criterion, within = rule
    exits = logits_of(engine, tokens)
    asked = rule_of(len(exits[0]), 1.0, criterion, within)
    asked = rule_of(len(exits[0]), between(kind, exits, asked, share), criterion, within)
    found = engine.classify(tokens, asked)
    for i, logits in enumerate(exits):
        exit, answer = expected(kind, asked, logits)
        assert found.exit[i] == exit
        assert found.uncertainty[i] == pytest.approx(answer.uncertainty, abs=1e-5)
        assert matches(kind, found.answer[i], answer.answer)
        alone = engine.classify(tokens.take(np.array([i])), asked)
        assert alone.exit[0] == exit
        assert matches(kind, alone.answer[0], answer.answer)


@pytest.mark.parametrize(("kind", "criterion", "within"), KINDS)
@PROPERTY
@given(lengths=LENGTHS, seed=st.integers(0, 99), share=st.floats(0, 1), bag=st.booleans())
def test_rows_leave_where_the_reference_lets_them(
    kind, criterion, within, lengths, seed, share, bag
):
    tokens = random_tokens(lengths, seed, special=True)
    tested = engine(kind, bag=bag)
    check_exits_equal_the_reference(tested, tokens, share, kind, criterion, within)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", QUESTIONS)
def test_full_depth_is_the_classifier_itself(kind, family):
    """As Hugging Face's pipeline reads it: a sigmoid for each label, and a score as it is."""
    tokens = random_tokens([5, 9, 2, 17, 9], seed=4, special=True)
    classifier = tiny_classifier(family, labels=LABELS[kind])
    mine = FastBertForSequenceClassification.from_classifier(classifier, QUESTIONS[kind])
    rule = rule_of(LAYERS, 0.0, *RULES[kind][0])
    found = Engine(mine, batch_tokens=50).classify(tokens, rule)
    assert (found.exit == LAYERS - 1).all()
    assert found.uncertainty.max() < 1e-6 or kind != "score"
    for i in range(len(tokens)):
        ids = torch.tensor(tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]][None]).long()
        with torch.no_grad():
            theirs = classifier(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        if kind == "score":
            assert found.answer["value"][i] == pytest.approx(theirs.item(), abs=1e-5)
        else:
            chances = theirs.sigmoid().numpy()
            np.testing.assert_allclose(found.answer["scores"][i], chances, atol=1e-5)
            assert found.answer["labels"][i].tolist() == (chances > CUTOFFS).tolist()


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_kind_by_the_reference(kind, family):
    tokens = random_tokens([5, 9, 2, 17, 9, 11], seed=7, special=True)
    check_exits_equal_the_reference(engine(kind, family), tokens, 0.4, kind, *RULES[kind][1])


class OrderNotRestored(Engine):
    """Answers stay in length order."""

    def _run(self, tokens, decide, *options):
        place = np.argsort(np.argsort(-tokens.lengths, kind="stable"))
        super()._run(tokens, lambda e, rows, p: decide(e, place[rows], p), *options)


class EntropyOfOne(Engine):
    """The surest decision counts, not the least sure; of a score, the value is its own doubt."""

    def classify(self, tokens, rule, *options):
        fake = copy.copy(self.task.by(rule.criterion, rule.within))
        fake.uncertainty = lambda z: (z.float().amax(-1).sigmoid()).clamp(0, 1)
        fake.by = lambda *_: fake
        self.questions.each = [replace(self.questions.each[0], task=fake)]
        return super().classify(tokens, rule, *options)


@pytest.mark.parametrize("broken", [OrderNotRestored, EntropyOfOne])
@pytest.mark.parametrize(("kind", "criterion", "within"), KINDS)
def test_control(kind, criterion, within, broken):
    tokens = random_tokens([5, 9, 2, 17, 9, 11, 4, 9, 20, 3], seed=4)
    with pytest.raises(AssertionError):
        check_exits_equal_the_reference(
            engine(kind, cls=broken), tokens, 0.5, kind, criterion, within
        )


# Answers.


def several(rows: list[list[float]]) -> Any:
    task = task_of(QUESTIONS["several-labels"], list("abcde"))
    return answer(task, torch.tensor(rows)).values


def test_labels_are_written_the_likeliest_first():
    task = task_of(QUESTIONS["several-labels"], list("abcde")).with_scores()
    answers = several([[1.0, 2.0, 2.0, -1.0, 3.0], [-1.0] * 5, [9.0] * 5])
    given = np.array([True, True, False])
    table = {name: column.to_pylist() for name, column in task.write(answers, given).items()}
    assert table["labels"] == [["e", "b", "a"], [], None]  # "c" has 0.88, below its 0.9
    assert table["label_scores"][0] == pytest.approx([0.9526, 0.8808, 0.7311], abs=1e-4)
    assert table["scores"][1] == pytest.approx([0.2689] * 5, abs=1e-4)
    assert table["scores"][2] is None
    assert task.count(answers) == {"a": 2, "b": 2, "c": 1, "d": 1, "e": 2, "(none)": 1}
    kinds = {name: column.type for name, column in task.write(answers, given).items()}
    assert all(kinds[field.name] == field.type for field in ANSWERS["several-labels"])


@pytest.mark.parametrize("criterion", ["tolerance", "cutoff", "spread"])
def test_when_scores_are_the_same(criterion):
    task = task_of(QUESTIONS["score"], ["x"])
    task = task.by(criterion, {"tolerance": (0.5,), "cutoff": (4.0, 2.0)}.get(criterion, ()))
    pairs = [(1.0, 1.0), (1.0, 1.5), (1.0, 1.51), (1.9, 2.0), (2.0, 3.9), (3.9, 4.0), (1.0, 5.0)]
    pairs += [(math.nan, 1.0), (math.nan, math.nan)]
    early, deep = (task.truth(np.array(side)) for side in zip(*pairs, strict=True))
    same = {
        "tolerance": [0, 1, 3, 5],  # 2.0 and 3.9 lie too far apart
        "cutoff": [0, 1, 2, 4],
        "spread": [0],
    }[criterion]
    assert np.flatnonzero(~task.differs(early, deep)).tolist() == same


def test_scores_are_counted_by_cut_off_or_by_size():
    task = task_of(QUESTIONS["score"], ["x"])
    values = task.truth(np.array([-0.5, 0.0, 1.99, 2.0, 3.99, 4.0]))
    assert task.count(values) == {"-1 to 0": 1, "0 to 1": 1, "1 to 2": 1, "2 to 3": 1, "3 to 4": 1,
                                  "4 to 5": 1}  # fmt: skip
    assert task.by("cutoff", (2.0, 4.0)).count(values) == {"below 2": 3, "2 to 4": 2, "from 4": 1}
    assert task.by("cutoff", (9.0,)).count(values) == {"below 9": 6}


def test_quality_by_hand():
    truth = several([[9.0, 9.0, -9.0, -9.0, -9.0], [-9.0, -9.0, -9.0, -9.0, 9.0]])
    found = several([[9.0, -9.0, -9.0, -9.0, -9.0], [-9.0, -9.0, -9.0, -9.0, 9.0]])
    task = task_of(QUESTIONS["several-labels"], list("abcde"))
    assert task.quality(found, truth) == pytest.approx(
        {"accuracy": 0.5, "micro_f1": 4 / 5, "macro_f1": 2 / 3}
    )
    score = task_of(QUESTIONS["score"], ["x"])
    known, given = (score.truth(np.array(v)) for v in ([1.0, 2.0, 3.0], [1.0, 3.0, 3.0]))
    assert score.quality(given, known) == pytest.approx({"r2": 0.5, "mean_absolute_error": 1 / 3})
    sides = score.by("cutoff", (2.5,)).quality(given, known)
    assert sides["right_side"] == pytest.approx(2 / 3)


def test_not_a_number_is_nobodys_answer():
    scores = [("score", [math.nan, 0.0]), ("score", [math.inf, 0.0])]
    for kind, broken in [("several-labels", [math.nan, 9.0, 9.0, 9.0, 9.0]), *scores]:
        for criterion, within in RULES[kind]:
            task = task_of(QUESTIONS[kind], ["x"] * LABELS[kind]).by(criterion, within)
            answers = answer(task, torch.tensor([broken]))
            assert not np.isfinite(answers.uncertainty[0]), (kind, criterion)
            if not math.isinf(broken[0]):
                assert task.differs(answers.values, answers.values).all()


def test_temperatures_make_scores_as_far_off_as_expected():
    rng = np.random.default_rng(0)
    deep = rng.normal(size=(4000, 1))
    spread = rng.uniform(-2, 0, size=(4000, 1))
    off = rng.normal(size=(4000, 1)) * np.exp(spread)
    exits = [np.hstack([deep + off, spread + shift]) for shift in (0.0, math.log(3), -math.log(2))]
    exits.append(np.hstack([deep, np.full_like(deep, -30.0)]))
    task = task_of(QUESTIONS["score"], ["x"])
    outputs = ExitOutputs(np.stack(exits).astype(np.float32), np.full(4000, 9), task)
    assert fit_temperatures(outputs) == pytest.approx([1.0, 1 / 3, 2.0], rel=0.15)


# Losses.


def test_losses_by_hand():
    task = task_of(QUESTIONS["several-labels"], list("abcde"))
    z, y = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.0]]), [1.0, 0.0, 0.25, 1.0, 0.0]
    p = [1 / (1 + math.exp(-each)) for each in z[0].tolist()]
    wanted = -sum(t * math.log(q) + (1 - t) * math.log(1 - q) for q, t in zip(p, y, strict=True))
    targets = torch.tensor([y, [math.nan] * 5])
    found = task.loss(z.expand(2, 5), targets)
    assert found.tolist() == pytest.approx([wanted, 0.0], abs=1e-5)
    assert task.given(targets).tolist() == [True, False]
    teacher = torch.tensor([[1.0, 1.0, -1.0, 0.5, 2.0]])
    t = [1 / (1 + math.exp(-each)) for each in teacher[0].tolist()]
    divergence = sum(
        b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a))
        for a, b in zip(p, t, strict=True)
    )
    assert task.distil(z, teacher, 1.0).item() == pytest.approx(divergence, abs=1e-5)
    assert task.distil(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)

    score = task_of(QUESTIONS["score"], ["x"])
    student, deep = torch.tensor([[0.7, -1.0]]), torch.tensor([[0.2, -30.0]])
    squared = 0.25
    assert score.distil(student, deep, 1.0).item() == pytest.approx(
        squared - 1.0 + 0.5 * squared * math.exp(2.0)
    )
    found = score.loss(student.expand(2, 2), torch.tensor([4.2, math.nan]))
    assert found.tolist() == pytest.approx([(0.7 - (4.2 - 2.5) / 1.7) ** 2, 0.0])


def test_how_far_off_a_score_may_be_does_not_move_it():
    score = task_of(QUESTIONS["score"], ["x"])
    student = torch.tensor([[0.7, -3.0]], requires_grad=True)
    score.distil(student, torch.tensor([[0.2, -30.0]]), 1.0).sum().backward()
    assert student.grad is not None
    assert student.grad[0, 0].item() == pytest.approx(2 * 0.5)  # of the squared distance alone


def test_probabilities_are_targets_of_one_label():
    task = task_of(Question(), ["a", "b"])
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    chances = torch.tensor([[0.25, 0.75], [math.nan, math.nan]])
    p = math.exp(1) / (math.exp(1) + 1)
    wanted = -(0.25 * math.log(p) + 0.75 * math.log(1 - p))
    assert task.loss(z, chances).tolist() == pytest.approx([wanted, 0.0], abs=1e-6)
    hard = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(task.loss(z, hard), task.loss(z, torch.tensor([0, 1])))
    assert task.truth(chances[:1].numpy())["label"].tolist() == [1]


# Promises.


@pytest.mark.parametrize(("kind", "criterion", "within"), [k for k in KINDS if k[1] != "spread"])
def test_points_break_no_more_than_they_say(kind, criterion, within):
    tested = Engine(model(kind, bag=True).float())
    tokens = random_tokens(np.arange(600) % 13 + 2, seed=3)
    outputs = exit_outputs(tested, tokens)
    cost = CostModel(model(kind, bag=True))
    sample = sample_of(outputs, None, cost, [], "fp32", within)
    try:
        point = promised_point(sample, Promise(0.3, 0.95), criterion)
    finally:
        model(kind, bag=True).double()
    assert point.within == (list(within) or None)
    found = tested.classify(tokens, point.rule(), np.ones(len(tokens), bool))
    task = tested.task.by(criterion, within)
    broken = task.differs(found.answer, found.deep)
    assert point.evidence is not None
    assert point.evidence.broken <= 0.3 * point.evidence.rows
    assert broken.mean() < 0.36
    assert (found.exit < len(tested.exits) - 1).any()


@pytest.mark.parametrize("targets", [
    torch.tensor([0, 2, 2, 2, 1, 2] * 50),
    torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]] * 150),
])  # fmt: skip
def test_nothing_suits_all_rows_better_than_the_prior_of_one_label(targets):
    check_prior(task_of(Question(), ["a", "b", "c"]), targets)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_nothing_suits_all_rows_better_than_the_prior(kind):
    generator = torch.Generator().manual_seed(3)
    hot = torch.rand(600, 5, generator=generator) < torch.tensor([0.01, 0.2, 0.5, 0.9, 0.04])
    targets = hot.float() if kind == "several-labels" else torch.rand(600, generator=generator) * 5
    targets[7] = math.nan  # of which nothing is known
    task = task_of(QUESTIONS[kind], list("abcde") if kind == "several-labels" else ["grade"])
    check_prior(task, targets)


def check_prior(task: Any, targets: torch.Tensor) -> None:
    def of(logits: torch.Tensor) -> float:
        return task.loss(logits.expand(len(targets), -1), targets).mean().item()

    prior = task.prior(targets)
    assert prior.shape == (task.numbers,)
    for k in range(1 if task.question.kind == "score" else task.numbers):
        for step in (-0.3, 0.3):
            other = prior.clone()
            other[k] += step
            assert of(other) > of(prior)
