"""The part of docs/results.md that lays out the paper's results again; `tables` writes it."""

import math
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

#: What calibration does by default, as promises.py calls it; and what it tries beside.
OURS = "tempered-entropy, 0-"
OFFERS = {
    "entropy, 1-": "the paper's exits, entropy",
    "margin, 1-": "margin",
    "tempered-entropy, 1-": "tempered-entropy",
    "entropy, 0-": "with the bag, entropy",
    "tempered-entropy, 0-, each exit alone": "temperatures only",
    OURS: "**tempered-entropy**",
    "auto, 0-": "auto",
}
#: Targets for `OURS`: the mean over splits.
TARGETS = {"ag_news": 9, "yelp_polarity_sent": 15, "dbpedia14": 12, "sms_spam": 12, "banking77": 4}
#: The best of all criteria, and of one threshold or one per layer, before there were a bag and
#: temperatures: English sets, checkpoints of that release.
BEFORE = {
    "ag_news": 4.58, "amazon_full": 1.33, "banking77": 2.99, "dbpedia14": 5.59, "goemotions": 2.16,
    "mrpc": 1.56, "sms_spam": 5.75, "yelp_full": 1.82, "yelp_polarity_sent": 4.71,
}  # fmt: skip

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
    """What paper.py has found, by set, in the order of the tables; `suffix` is that of another
    recipe, or of an earlier release."""
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


def times(proven: dict[str, Any] | None) -> str:
    """Full depth's FLOPs by those of all splits together."""
    speedup = proven and proven["flops_speedup_of_all_together"]
    return f"{speedup:.2f}x" if speedup else "too few rows"


def table_two(found: dict[str, dict[str, Any]], promises: dict[str, Any]) -> str:
    """Accuracy and FLOPs: full depth, fixed depth, the exit before the first layer, speeds, and the
    promised points, with the paper's exits and with all."""
    lines = []
    for name, result in found.items():
        title, _, relation = SETS[name]
        fixed = {row["layers"]: row for row in result["fixed"]}
        bag = fixed.get(0)
        proven = promises["sets"].get(name, {})
        lines.append(
            [title, relation, f"{result['train_rows']:,} / {result['rows']:,}",
             len(result["classes"]), f"{result['full_flops_per_row'] / 1e6:,.0f}",
             f"{100 * fixed[result['layers']]['accuracy']:.2f}",
             *(cell(fixed[k]["accuracy"], fixed[k]["flops_speedup"]) for k in (3, 1)),
             *(cell(row["accuracy"], row["flops_speedup"])
               for row in (speed_of(result, speed) for speed in (0.1, 0.5, 0.8))),
             f"{100 * bag['accuracy']:.2f} ({100 * bag['agreement']:.1f})" if bag else "–",
             times(proven.get("entropy, 1-")), f"**{times(proven.get(OURS))}**"]
        )  # fmt: skip
    names = [
        "set", "its rows and the paper's", "train / test", "classes", "MFLOPs a row", "6 layers",
        "3 layers", "1 layer", "speed 0.1", "speed 0.5", "speed 0.8", "the bag alone (agrees)",
        "1 %, the paper's exits", "1 %, all exits",
    ]  # fmt: skip
    return table(names, lines)


def papers_table(found: dict[str, dict[str, Any]]) -> str:
    """The paper's cells for the sets that are its own, beside ours at the same speed."""
    lines = []
    for name, (bert, *cells) in PAPER.items():
        if name not in found:
            continue
        own = [speed_of(found[name], speed) for speed in (0.1, 0.5, 0.8)]
        most = max(row["flops_speedup"] for row in found[name]["fixed"] if row["layers"])
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


def geometric_mean(values: list[float]) -> float:
    """Of ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))


def promises_table(promises: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """Times fewer FLOPs at the promised point, by criterion and exits, over all splits."""
    sets = {name: promises["sets"][name] for name in found if name in promises["sets"]}
    lines = [
        [SETS[name][0], result["calibrated_on"], *(times(result[offer]) for offer in OFFERS)]
        for name, result in sets.items()
    ]
    english = [result for name, result in sets.items() if name in BEFORE]
    means = []
    for offer in OFFERS:
        known = [result[offer]["flops_speedup_of_all_together"] for result in english]
        means.append(f"**{geometric_mean(known):.2f}x**" if all(known) else "–")
    lines.append([f"**geometric mean of {len(english)} English sets**", "", *means])
    return table(["set", "calibrated on", *OFFERS.values()], lines)


def promises_verdict(promises: dict[str, Any]) -> str:
    """The targets this project set itself for a promise of 1 %."""
    means = {name: promises["sets"][name][OURS]["mean_flops_speedup"] for name in BEFORE}
    lines = [
        f"{SETS[name][0]}: {means[name]:.2f}x as a mean over splits, {BEFORE[name]:.2f}x before, "
        f"target {judged(means[name], target)}"
        for name, target in TARGETS.items()
    ]
    together = [promises["sets"][name][OURS]["flops_speedup_of_all_together"] for name in BEFORE]
    mean = geometric_mean(together)
    lines.append(
        f"geometric mean of {len(BEFORE)} English sets: {mean:.2f}x, "
        f"{geometric_mean(list(BEFORE.values())):.2f}x before, target {judged(mean, 5)}"
    )
    changes = {name: means[name] / BEFORE[name] for name in BEFORE}
    worst = min(changes, key=lambda name: changes[name])
    lines.append(
        f"the set that gains least, {SETS[worst][0]}: {changes[worst]:.2f} times what it was, "
        f"target {judged(changes[worst], 0.97)}"
    )
    return "\n".join(f"* {line}." for line in lines)


def chosen_exits_table(found: dict[str, Any]) -> str:
    """With all exits, and with those that a part of the sample chooses."""
    lines = [
        [SETS[name][0], how, f"{row['all']:.2f}x", f"{row['chosen']:.2f}x", row["chosen : all"],
         " ".join(f"{share:.1f}" for share in row["used"])]
        for name, rows in found["sets"].items()
        for how, row in rows.items()
    ]  # fmt: skip
    names = [
        "set",
        "FLOPs counted",
        "all exits",
        "chosen",
        "ratio",
        "share of splits with each exit",
    ]
    return table(names, lines)


def coverage_table(promises: dict[str, Any]) -> str:
    """How many promises were broken, by criterion and exits, over all sets."""
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
    names = ["criterion, exits", "sets", "promises", "broken", "share", "worst set"]
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
        fixed = {row["layers"]: row for row in found[name]["fixed"]}
        own += [fixed[layer] for layer in (3, 1)]
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
