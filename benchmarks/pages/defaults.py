"""The part of docs/results.md about training with no option but data and columns."""

import re
from statistics import mean
from typing import Any

from benchmarks.pages.markdown import judged, load, table, where
from benchmarks.pages.paper_results import SETS

#: What is asked of each set: accuracy at full depth. Of ChnSentiCorp, within one point of the table
#: above; of few rows, the linear model's.
_TARGETS = {
    "clinc150_two": 0.90,
    "ag_news": 0.915,
    "banking77": 0.91,
    "goemotions": 0.61,
    "yelp_polarity_sent": 0.938,
    "chnsenticorp": 0.8617,
}
_NAMES = {
    "clinc150_two": "CLINC150, 151 intents, its development rows",
    "sms_spam_200": "200 rows of SMS spam",
    "yelp_polarity_sent_200": "200 rows of Yelp polarity",
} | {name: said for name, (said, *_) in SETS.items()}


def _read(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """How many times as many rows were read as by the settings of the table above: in fine-tuning,
    and in both steps."""
    if name not in SETS:
        return ["", ""]
    best = load(f"paper/{name}")
    found = re.search(r"--epochs ([\d.]+)", best["command"])
    assert found is not None
    epochs = float(found[1])
    passes = [(each["trained"]["epochs"], each["trained"]["distil_epochs"]) for each in runs]
    share = mean(each["trained"]["rows"] for each in runs) / best["train_rows"]
    tuned, both = mean(e for e, _ in passes), mean(e + d for e, d in passes)
    return [f"{share * tuned / epochs:.2f}", f"{share * both / (epochs + 5):.2f}"]


def defaults_section() -> str:
    """What `fastbert train` makes by itself."""
    found = load("defaults")
    runs: dict[str, list[dict[str, Any]]] = {}
    for each in found["runs"]:
        runs.setdefault(each["set"], []).append(each)
    rows = []
    for name, mine in sorted(runs.items(), key=lambda item: [*_NAMES].index(item[0])):
        accuracy = mean(each["accuracy"] for each in mine)
        linear = [each["linear_accuracy"] for each in mine if each["linear_accuracy"] is not None]
        target = mean(linear) if linear else _TARGETS[name]
        rows.append([
            _NAMES[name], len(mine), f"{accuracy:.4f}", judged(accuracy, round(target, 4)),
            *_read(name, mine), mine[0]["point"].removeprefix("max-disagreement-"),
            f"{mean(each['agreement_at_point'] for each in mine):.4f}",
            f"{mean(each['flops_speedup_at_point'] for each in mine):.2f}x",
        ])  # fmt: skip
    machine, device = found["runs"][0]["machine"], found["runs"][0]["trained"]["device"]
    names = ["set", "seeds", "accuracy", "target", "fine-tuning", "both steps", "promise", "agrees",
             "FLOPs"]  # fmt: skip
    return f"""## With no option

`fastbert train` had only data and columns as options, and was tested on published test rows.

* *Fine-tuning* and *both steps*: rows read, repeats included, divided by those of the settings that were chosen by hand above
  (the target is at most 1.5).
* *Promise*: the share that the held-out rows proved. *Agrees* and *FLOPs* are those of the test rows.
* For the sets of 200 rows, drawn by seed, the target is logistic regression on TF-IDF with the same rows.

The English sets use the packaged backbone, with its weights rounded to float16. Trained on {device}, with
{where(machine)}.

{table(names, rows)}

```
{found["program"]}
```"""
