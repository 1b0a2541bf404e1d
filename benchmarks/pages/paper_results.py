"""The part of docs/results.md that lays out the paper's results again; `tables` writes it."""

from typing import Any

from benchmarks import RESULTS
from benchmarks.pages.markdown import judged, load, table

#: Liu et al. 2020, Table 2: accuracy of BERT-base; accuracy and speed-up of FastBERT at speeds 0.1,
#: 0.5 and 0.8.
PAPER = {
    "chnsenticorp": (95.25, (95.25, 2.02), (92.00, 6.82), (89.75, 9.40)),
    "douban_book_review": (86.88, (86.88, 1.60), (86.64, 4.21), (85.14, 7.23)),
    "shopping_review": (96.84, (96.79, 4.45), (96.42, 8.65), (95.72, 10.04)),
    "weibo_senti": (97.69, (97.71, 5.90), (97.72, 6.51), (97.69, 10.09)),
    "thucnews10": (96.71, (96.71, 6.05), (95.64, 11.00), (94.97, 11.74)),
    "ag_news": (94.47, (94.38, 3.62), (93.14, 10.33), (92.53, 11.72)),
    "dbpedia14": (99.31, (99.28, 10.57), (99.05, 11.74), (99.04, 11.75)),
}

#: The sets, in the paper's order and then by name: what the tables call it, its language, and how
#: its rows relate to the paper's.
SETS = {
    "chnsenticorp": ("ChnSentiCorp", "zh", "same"),
    "douban_book_review": ("Book review", "zh", "same"),
    "shopping_review": ("Shopping review", "zh", "same"),
    "weibo_senti": ("Weibo", "zh", "subset, our split"),
    "thucnews10": ("THUCNews", "zh", "same test, part of train"),
    "ag_news": ("AG News", "en", "same test, part of train"),
    "dbpedia14": ("DBpedia", "en", "subset"),
    "amazon_full": ("Amazon, 5 stars", "en", "stand-in"),
    "yahoo_2of10": ("Yahoo, 2 of 10 topics", "en", "stand-in"),
    "yelp_full": ("Yelp, 5 stars", "en", "stand-in"),
    "yelp_polarity_sent": ("Yelp polarity, sentences", "en", "stand-in"),
    "banking77": ("Banking77", "en", "not in the paper"),
    "goemotions": ("GoEmotions", "en", "not in the paper"),
    "imdb": ("IMDb", "en", "not in the paper"),
    "mrpc": ("MRPC, pairs", "en", "not in the paper"),
    "sms_spam": ("SMS spam", "en", "not in the paper"),
}

#: Its Table 3, by set: with all parts at speeds 0.2 and 0.7, without self-distillation at the same,
#: and without adaptive inference at a half and a sixth of the layers.
PAPER_ABLATION = {
    "douban_book_review": (
        (86.98, 2.23), (85.69, 6.01), (86.22, 2.19), (85.02, 5.08), (86.42, 1.95), (82.88, 5.87),
    ),
    "yelp_polarity_sent": (
        (95.90, 4.12), (94.67, 7.90), (95.55, 5.22), (94.54, 9.18), (95.18, 1.95), (93.11, 5.87),
    ),
}  # fmt: skip


def results(suffix: str = "") -> dict[str, dict[str, Any]]:
    """What paper.py has found, by set, in the order of the tables."""
    return {
        name: load(f"paper/{name}{suffix}")
        for name in SETS
        if (RESULTS / "paper" / f"{name}{suffix}.json").exists()
    }


def cell(accuracy: float, speedup: float) -> str:
    """Accuracy in per cent, and times fewer FLOPs."""
    return f"{100 * accuracy:.2f} ({speedup:.2f}x)"


def speed_of(result: dict[str, Any], speed: float) -> dict[str, Any]:
    """The outcome at a speed."""
    row: dict[str, Any] = next(row for row in result["speeds"] if row["speed"] == speed)
    return row


def table_two(found: dict[str, dict[str, Any]]) -> str:
    """Accuracy and FLOPs: full depth, fixed depth, speeds, and the promised point."""
    lines = []
    for name, result in found.items():
        title, _, relation = SETS[name]
        fixed = {row["layers"]: row for row in result["fixed"]}
        promise = result["promise"]
        lines.append(
            [title, relation, f"{result['train_rows']:,} / {result['rows']:,}",
             len(result["classes"]), f"{result['full_flops_per_row'] / 1e6:,.0f}",
             f"{100 * fixed[result['layers']]['accuracy']:.2f}",
             *(cell(fixed[k]["accuracy"], fixed[k]["flops_speedup"]) for k in (3, 1)),
             *(cell(row["accuracy"], row["flops_speedup"])
               for row in (speed_of(result, speed) for speed in (0.1, 0.5, 0.8))),
             f"**{promise['flops_speedup']:.2f}x** ({promise['realised_speedup']:.2f}x)"
             if promise else "too few rows"]
        )  # fmt: skip
    names = [
        "set", "its rows and the paper's", "train / test", "classes", "MFLOPs a row", "6 layers",
        "3 layers", "1 layer", "speed 0.1", "speed 0.5", "speed 0.8", "1 % promise (clock)",
    ]  # fmt: skip
    return table(names, lines)


def papers_table(found: dict[str, dict[str, Any]]) -> str:
    """The paper's cells for the sets that are its own, beside ours at the same speed."""
    lines = []
    for name, (bert, *cells) in PAPER.items():
        if name not in found:
            continue
        own = [speed_of(found[name], speed) for speed in (0.1, 0.5, 0.8)]
        most = max(row["flops_speedup"] for row in found[name]["fixed"])
        line = [SETS[name][0], SETS[name][2], f"{bert:.2f}"]
        for (accuracy, speedup), row in zip(cells, own, strict=True):
            line.append(f"{accuracy:.2f} ({speedup:.2f}x of 11.75x)")
            line.append(f"{cell(row['accuracy'], row['flops_speedup'])} of {most:.2f}x")
        lines.append(line)
    names = ["set", "rows", "BERT-base"]
    for speed in (0.1, 0.5, 0.8):
        names += [f"paper, {speed}", f"ours, {speed}"]
    return table(names, lines)


def shape_of_table_two(found: dict[str, dict[str, Any]]) -> str:
    """What holds in the paper's table, and whether it does here."""
    losses = {
        name: 100 * (result["fixed"][-1]["accuracy"] - speed_of(result, 0.1)["accuracy"])
        for name, result in found.items()
    }
    worst = max(losses, key=lambda name: losses[name])
    rising = [
        name for name, result in found.items()
        if all(a["flops_speedup"] <= b["flops_speedup"]
               for a, b in zip(result["speeds"], result["speeds"][1:], strict=False))
    ]  # fmt: skip
    within = sum(loss <= 0.3 for loss in losses.values())
    rows = found[worst]["rows"]
    return (
        f"* At speed 0.1, accuracy is within 0.3 points of full depth on {within} of {len(found)} "
        f"sets; the most is lost on {SETS[worst][0]}, {losses[worst]:.2f} points "
        f"({losses[worst] * rows / 100:.0f} of {rows:,} rows).\n"
        f"* FLOPs fall with speed on {len(rising)} of {len(found)}."
    )


def promises_table(promises: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """Times fewer FLOPs at the promised point, by criterion; the mean over all splits."""
    sets = {name: promises["sets"][name] for name in found if name in promises["sets"]}
    offers = [key for key, value in next(iter(sets.values())).items() if isinstance(value, dict)]
    uniform = [offer for offer in offers if offer.endswith("uniform")]
    shown = [*uniform, "entropy, per-layer", "auto"]

    def times(result: dict[str, Any], offer: str) -> str:
        speedup = result[offer]["mean_flops_speedup"]
        return "–" if speedup is None else f"{speedup:.2f}x"

    lines = [
        [SETS[name][0], result["calibrated_on"], *(times(result, offer) for offer in shown)]
        for name, result in sets.items()
    ]
    english = [result for name, result in sets.items() if SETS[name][1] == "en"]
    means = []
    for offer in shown:
        known = [result[offer]["mean_flops_speedup"] for result in english]
        known = [value for value in known if value is not None]
        means.append(f"**{sum(known) / len(known):.2f}x**")
    lines.append(["**mean of the English sets**", "", *means])
    return table(["set", "calibrated on", *(o.replace(", uniform", "") for o in shown)], lines)


def promises_verdict(promises: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """The targets this project set itself for a promise of 1 %, and what stands in the way."""
    best = {
        name: max(offer["mean_flops_speedup"] or 0 for offer in result.values()
                  if isinstance(offer, dict))
        for name, result in promises["sets"].items() if name in found
    }  # fmt: skip
    english = [name for name in best if SETS[name][1] == "en"]
    auto = [promises["sets"][name]["auto"]["mean_flops_speedup"] for name in english]
    mean = sum(auto) / len(auto)
    lines = [f"mean of the English sets with *auto*: {mean:.2f}, target {judged(mean, 3.5)}"]
    for name, target in (("ag_news", 4.3), ("banking77", 2.0), ("goemotions", 2.0)):
        plain = promises["sets"][name]["entropy, uniform"]["mean_flops_speedup"]
        lines.append(
            f"{SETS[name][0]}: {best[name]:.2f} with the best criterion and shape ({plain:.2f} "
            f"with one threshold on the entropy), target {judged(best[name], target)}"
        )
    hard = [name for name in english if best[name] < 2.5]
    right = [100 * found[name]["fixed"][-1]["accuracy"] for name in hard]
    return "\n".join(f"* {line}." for line in lines) + (
        f"\n\nWhat keeps the mean down are {'; '.join(SETS[name][0] for name in hard)}. There full "
        f"depth itself is right in {min(right):.0f} to {max(right):.0f} % of the rows only: where "
        "labels are a matter of opinion, far more than 1 % of the rows change theirs from layer to "
        "layer, and have to go deep."
    )


def coverage_table(promises: dict[str, Any]) -> str:
    """How many promises were broken, by criterion and shape, over all sets."""
    sets = list(promises["sets"].values())
    offers = [key for key, value in sets[0].items() if isinstance(value, dict)]
    lines = []
    for offer in offers:
        made = [s[offer] for s in sets if s[offer]["promises"]]
        total, broken = sum(r["promises"] for r in made), sum(r["broken"] for r in made)
        # A handful of promises, where rows hardly suffice for any, says nothing.
        worst = max(r["share_broken"] for r in made if r["promises"] >= promises["splits"] / 2)
        lines.append(
            [offer, len(made), f"{total:,}", broken, f"{broken / total:.2%}", f"{worst:.1%}"]
        )
    names = ["criterion, shape", "sets", "promises", "broken", "share", "worst set"]
    return table(names, lines)


def ablation_table(found: dict[str, dict[str, Any]], joint: dict[str, dict[str, Any]]) -> str:
    """Table 3: with and without self-distillation and adaptive inference, the paper's and ours."""
    titles = [
        "all of it, speed 0.2", "all of it, speed 0.7",
        "no self-distillation, speed 0.2", "no self-distillation, speed 0.7",
        "no adaptive inference, a half of the layers", "no adaptive inference, a sixth",
    ]  # fmt: skip
    columns, head = [titles], [""]
    for name, papers in PAPER_ABLATION.items():
        runs = (found[name], joint[name])
        own = [speed_of(run, speed) for run in runs for speed in (0.2, 0.7)]
        own += [found[name]["fixed"][layer - 1] for layer in (3, 1)]
        columns.append([f"{accuracy:.2f} ({speedup:.2f}x)" for accuracy, speedup in papers])
        columns.append([cell(row["accuracy"], row["flops_speedup"]) for row in own])
        head += [f"{SETS[name][0]}: paper", "ours"]
    return table(head, [list(line) for line in zip(*columns, strict=True)])


def recipes_tables(found: dict[str, Any]) -> str:
    """Ways to train, on the sets they were compared on: a table each."""
    parts = []
    for name, result in found["sets"].items():
        lines = []
        for title, outcome in result["recipes"].items():
            times = outcome["flops_speedup"]
            accuracy = outcome["accuracy"]
            lines.append(
                [title, f"{100 * accuracy[-1]:.2f}", f"{100 * accuracy[0]:.2f}",
                 f"{100 * outcome['agreement'][0]:.2f}",
                 *(f"{times[criterion]:.2f}x" for criterion in times)]
            )  # fmt: skip
        criteria = next(iter(result["recipes"].values()))["flops_speedup"]
        names = ["recipe", "6 layers", "1 layer", "1 layer agrees", *criteria]
        parts.append(
            f"**{SETS[name][0]}**, {result['classes']} classes, {result['train_rows']:,} rows to "
            f"train on, {result['test_rows']:,} to test\n\n{table(names, lines)}"
        )
    return "\n\n".join(parts)
