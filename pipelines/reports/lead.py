"""The first sentences of a report: rows, differing labels, saved cost, accuracy."""

from collections.abc import Iterator, Mapping

import pandas as pd

Frames = Mapping[str, pd.DataFrame]


def lead(frames: Frames) -> list[str]:
    """The sentences. `frames` are the results of `questions`, by title."""
    return [*_rows(frames), *_accuracy(frames), *_promise(frames["recipes"]), *_saved(frames)]


def _rows(frames: Frames) -> Iterator[str]:
    rows, errors = (int(frames[name]["rows"].sum()) for name in ("exit layers", "errors"))
    more = f", and {errors:,} have an error in place of a label" if errors else ""
    yield f"{rows:,} rows are labelled{more}."
    runs = frames["runs"].dropna(subset=["truncated_rows"])
    if cut := int(runs["truncated_rows"].sum()):
        read = int(runs["rows"].sum())
        yield (
            f"Of {read:,} texts, {cut:,} ({cut / read:.1%}) were longer than the model's input, so "
            "only their beginning was read."
        )


def _accuracy(frames: Frames) -> Iterator[str]:
    if (found := frames.get("accuracy")) is not None and (rows := int(found["rows"].sum())):
        if "accuracy_percent" not in found:
            off = float((found["rows"] * found["mean_absolute_error"]).sum() / rows)
            yield f"Of {rows:,} rows with a true score, the mean error of the score is {off:.3g}."
            return
        right = float((found["rows"] * found["accuracy_percent"]).sum() / rows)
        yield f"Of {rows:,} rows with a true label, {right:.1f} % are labelled correctly."


def _promise(recipes: pd.DataFrame) -> Iterator[str]:
    """Whether all audits of the last used recipe confirm its promise; if it was not audited, those
    of the last audited one."""
    judged = recipes[recipes["audited"] > 0]
    promised = recipes.dropna(subset=["promised_percent"])
    both = judged.dropna(subset=["promised_percent"])
    if not len(judged):
        if len(promised):
            last = promised.iloc[-1]
            yield (
                f"'{last['operating_point']}' promises that at most "
                f"{100 - last['promised_percent']:.3g} % of its labels differ from those of the "
                "same model at full depth; no row was audited (see --audit-rate of fastbert label)."
            )
        return
    last = (both if len(both) else judged).iloc[-1]
    names = ["promised_percent", "agreement_percent", "upper_percent", "lower_percent"]
    promise, differ, low, high = (100 - float(last[name]) for name in names)
    runs = int(last["audited_runs"])
    said = (
        f"Of {int(last['audited']):,} audited rows{f' of {runs:,} runs' * (runs > 1)}, "
        f"{differ:.3g} % differ from full depth, so of all rows {low:.3g} % to {high:.3g} % do "
        "(with 95 % confidence)"
    )
    if not len(both):
        yield f"{said}."
        return
    these, s = ("these audits", "") if runs > 1 else ("this audit", "s")
    verdict = f"{these} confirm{s} the promise"
    if low > promise:
        verdict = f"{these} contradict{s} the promise"
    elif high > promise:
        verdict = f"too few to confirm or contradict the promise yet. {_patience(last)}"
    yield (
        f"'{last['operating_point']}' promises that at most {promise:.3g} % of its labels differ "
        f"from those of the same model at full depth. {said}: {verdict}. Audits do not check "
        "whether labels are correct."
    )


def _patience(recipe: pd.Series) -> str:
    """How many more runs the decision takes."""
    more = recipe["more_runs"]
    if pd.isna(more):
        return "The share of differing labels is too close to the promise for a decision soon"
    some = recipe["audited"] / recipe["audited_runs"]
    return (
        f"It takes about {more:,.0f} more run{'s' * bool(more > 1)} with {some:,.0f} audited rows "
        "each, or a higher --audit-rate"
    )


def _saved(frames: Frames) -> Iterator[str]:
    costs = frames["costs"]
    for unit, said in (("price", "{:,.2f} in money".format), ("seconds", _duration)):
        both = costs.dropna(subset=[f"{unit}_per_million", f"full_depth_{unit}_per_million"])
        spent, full = (
            float((both["rows"] * both[f"{depth}{unit}_per_million"]).sum() / 1e6)
            for depth in ("", "full_depth_")
        )
        if full > 0:
            saved = f"{1 - spent / full:.0%} saved"
            more = f"full depth for every row would have cost {said(full)}: {saved}"
            if spent == full:
                more = "all rows passed all layers"
            yield f"Labelling cost {said(spent)}; {more}."
            return


def _duration(seconds: float) -> str:
    size, name = next(
        (s, n) for s, n in ((3600, "hours"), (60, "minutes"), (0, "seconds")) if seconds >= 2 * s
    )
    return f"{seconds / (size or 1):,.1f} {name} of the model"
