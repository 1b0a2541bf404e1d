"""Writes docs/results.md, docs/benchmarks.md, docs/scale.md and README's results block from committed JSON.

python -m benchmarks.pages.tables          # write
python -m benchmarks.pages.tables --check  # exit 1 if what is committed differs (a test does this)
"""

import re
import sys

from benchmarks import ROOT
from benchmarks.pages import figures, paper_results
from benchmarks.pages.against import against_section
from benchmarks.pages.defaults import defaults_section
from benchmarks.pages.kinds import kinds_section
from benchmarks.pages.markdown import load
from benchmarks.pages.peers import peers_table, rate
from benchmarks.pages.performance import performance_page
from benchmarks.pages.scale import scale_page


def speeds_table(result: dict) -> str:
    """One line per speed; the last column only where the clock ran."""
    timed = "machine" in result
    names = ["speed", "accuracy", "agrees with full depth", "layers of 6", "FLOPs speed-up"]
    names += ["on the clock"] * timed
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in result["speeds"]:
        cells = [f"{row['speed']:g}", f"{row['accuracy']:.4f}", f"{row['agreement']:.4f}"]
        cells += [f"{row['mean_layers']:.2f}", f"{row['flops_speedup']:.2f}x"]
        cells += [f"{row['realised_speedup']:.2f}x"] if timed else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def exits_table(result: dict) -> str:
    """Rows that left at each layer, per speed."""
    layers = result["exit_depths"]
    lines = ["| speed | " + " | ".join(f"layer {k}" for k in layers) + " |"]
    lines.append("|---" * (len(layers) + 1) + "|")
    for row in result["speeds"]:
        lines.append(f"| {row['speed']:g} | " + " | ".join(map(str, row["exits"])) + " |")
    return "\n".join(lines)


def verdict(result: dict) -> str:
    """The targets this project set itself for this run, and whether they are met."""
    full, half = (next(r for r in result["speeds"] if r["speed"] == s) for s in (0.0, 0.5))
    loss = 100 * (full["accuracy"] - half["accuracy"])
    checks = [
        (f"full depth {full['accuracy']:.4f}, target at least 0.915", full["accuracy"] >= 0.915),
        (f"speed 0.5 loses {loss:.2f} points, target at most 0.5", loss <= 0.5),
        (
            f"speed 0.5 takes {half['mean_layers']:.2f} layers on average, target at most 1.6",
            half["mean_layers"] <= 1.6,
        ),
    ]
    return "\n".join(f"* {text}: {'met' if met else '**missed**'}." for text, met in checks)


def equality_table(result: dict) -> str:
    """Labelled outputs against the slow reference."""
    lines = [
        "| output | shards | rows checked | different | on the threshold | largest score difference |",
        "|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        lines.append(
            f"| {run['output']} | {run['shards']} | {run['rows']} | {run['different']} "
            f"| {run['on_the_threshold']} | {run['largest_score_difference']:.1e} |"
        )
    return "\n".join(lines)


def results_page() -> str:
    """docs/results.md."""
    news = load("ag_news")
    equal = load("ag_news_labelled")
    machine = news["machine"]
    return f"""# Results

This page and its figures are generated from the JSON files in `benchmarks/results/` by
`python -m benchmarks.pages.tables`.

{paper_section()}

{parts_section()}

{training_section()}

{defaults_section()}

{kinds_section()}

{against_section()}

## AG News, speed by speed

The backbone is all-MiniLM-L6-v2 (6 layers, 22 M parameters). It was fine-tuned and self-distilled on {news["train_rows"]:,} rows,
a subset of the original 120,000, so the result is not comparable with the paper's cell. It was tested on the original
{news["rows"]:,} test rows.

Speed-ups are relative to the same model at full depth without branches. "On the clock" is the median of interleaved runs
of the engine over {news["timed_rows"]:,} of the rows on {machine["cores"]} CPU cores ({machine["processor"]}), {news["precision"]}, torch {machine["torch"]}.

```
{chr(10).join(news["commands"])}
```

{speeds_table(news)}

{verdict(news)}

Rows by the layer that answered them:

{exits_table(news)}

(One epoch of fine-tuning was chosen, not two, because of the numbers of an earlier recipe on this test set. This makes the
table a little optimistic.)

### The labelling job against the slow reference

The test set was divided into 8 shards in hive folders, and labelled at speed {equal["speed"]:g} with `ray job submit`, to a local
folder and to `s3://` (OpenStack Swift). Then each row was compared with an implementation that takes one row at a time
through Hugging Face's own forward pass (`tests/support/reference.py`): label and exit layer exactly, score to 1e-5.

```
{equal["command"]}
```

{equality_table(equal)}
"""


def paper_section() -> str:
    """The paper's results laid out again, and what promises cost."""
    found, promises = paper_results.results(), load("promises")
    chosen_exits = load("choosing_exits")
    stand_in, where_trained = load("chinese_bert"), found["ag_news"]["machine"]
    losses = stand_in["loss"]
    commands = "\n".join(result["command"] for result in found.values())
    return f"""## The paper's Table 2, laid out again

The table has the accuracy in per cent and, in brackets, how many times fewer FLOPs than the same model at full depth
without branches.

**No cell is a reproduction of the paper's.** Its backbone is BERT-base with 12 layers. Ours has 6, so at most 5.9x can be
saved. The second column shows whether the rows are the paper's own.

* English sets use all-MiniLM-L6-v2 (22 M parameters).
* For Chinese, no pre-trained weights were available. A BERT of 10 M parameters takes their place. It was trained only with
  {stand_in["epochs"]:g} epochs of masked language modelling (loss {losses[0]:.1f} to {losses[-1]:.1f}) on the {stand_in["texts"]:,} training texts of {len(stand_in["sets"])} of these sets, and
  knows far less than the paper's.

With the weights of BERT-base, one command repeats the table: `python -m benchmarks.quality.paper --data DATA
--work WORK --output OUTPUT --backbone bert-base-uncased` (or `bert-base-chinese`, with `--sets`).

{paper_results.table_two(found, promises)}

* *The bag alone*: the accuracy of the exit before the first layer, if all rows left there, and how often it agrees with full depth.
* *1 %*: half of the rows (development rows included) prove with 95 % confidence that at most 1 % of the labels differ from full
  depth's. The column has the FLOPs of the fastest such threshold on the other half, over {promises["splits"]} such halves.
* The paper has no exit before the first layer, and none of its columns uses it.

The shape of the paper's table:

{paper_results.shape_of_table_two(found)}

```
python -m benchmarks.quality.chinese_bert --data DATA --output chinese_bert --epochs {stand_in["epochs"]:g}{"".join(f" --sets {name}" for name in stand_in["sets"])}
{commands}
python -m benchmarks.quality.paper --data DATA --work WORK --output benchmarks/results/paper
```

The models were trained in bf16 on one {where_trained["gpu"]}, torch {where_trained["torch"]}. `minilm` is the packaged all-MiniLM-L6-v2 with its weights
rounded to float16. A tenth of each set's training rows is held out.

The paper's own sets beside the paper's cells, at three speeds:

{paper_results.papers_table(found)}

![speeds](figures/speeds.svg)

Above is the paper's figure 3: accuracy and FLOPs by speed. Below is its figure 4, for {paper_results.SETS[figures.CLOSE_UP][0]}: surer answers are more often
right (the number of rows is on each bar). The last figure is its figure 5: where rows leave.

![certainty](figures/certainty.svg)

![exits](figures/exits.svg)

## What a promise of 1 % is worth

The table has how many times fewer FLOPs are needed on the rows that the promise is about, over {promises["splits"]} random halves
together, by exits and by criterion. *Temperatures only* does not use the answers of earlier exits. *auto* chooses a
criterion on 40 % of the sample ([calibration](calibration.md)).

{paper_results.promises_table(promises, found)}

{paper_results.promises_verdict(promises)}

If full depth itself is often wrong, as with stars and emotions, labels are a matter of opinion. Then far more than 1 % of
the rows change their label from layer to layer, and must go deep.

*Before* is the best of all criteria, with one threshold or with one per layer, for the checkpoints of the last release. They
learned from the same training rows.

### Which exits pay

All of them pay. The rows that do not prove can choose, by leaving out exits as long as that seems to save. This makes points
slower:

{paper_results.chosen_exits_table(chosen_exits)}

```
{chosen_exits["program"]}
```

### Are promises kept?

Each of the {promises["splits"]} splits makes a promise at 95 % confidence and checks it on the other rows. At most one in twenty may be
broken.

{paper_results.coverage_table(promises)}

```
{promises["program"]}
```"""


def parts_section() -> str:
    """Table 3: the model without some of its parts."""
    joint = paper_results.results(".joint")
    commands = "\n".join(result["command"] for result in joint.values())
    sets = "".join(f" --sets {name}" for name in joint)
    return f"""## What each part is worth: the paper's Table 3

The table has the accuracy in per cent, and in brackets how many times fewer FLOPs (at most 11.75 in the paper, 5.9 here).
*No self-distillation*: all branches learn from the labels together with the backbone. The book reviews are the paper's rows
with another backbone; Yelp is a stand-in.

{paper_results.ablation_table(paper_results.results(".earlier"), joint)}

With self-distillation, rows leave earlier at speed 0.7, as on the paper's book reviews. A fixed depth costs less accuracy than
in the paper: the first of these six layers is nearly as accurate as the last.

(Both kinds of checkpoints are of an earlier release. Their Chinese backbone was trained for half an epoch.)

```
{commands}
python -m benchmarks.quality.paper --data DATA --work WORK --output benchmarks/results/paper --recipe joint{sets}
```"""


def training_section() -> str:
    """Ways to train, compared."""
    found = load("recipes")
    return f"""## Ways to train

Each set is fine-tuned once, and all ways of self-distillation start from there. The tables have accuracy and agreement with
full depth in per cent, and how many times fewer FLOPs are needed at the threshold that changes exactly 1 % of the labels, by
criterion. *paper* is three epochs at a rate of 2e-4. With *joint*, all branches learn from the labels together with the backbone,
and nothing is distilled.

* A higher rate than the paper's helps on all sets.
* More epochs help further if there are many classes, and cost a little if there are two.
* Labels help on one set and harm on others. Temperature hardly helps.

So the default is a rate of 1e-3, without labels or temperature.

{paper_results.recipes_tables(found)}

```
{found["program"]}
```"""


def headline() -> str:
    """Rows a second beside other tools, and what is saved on other corpora."""
    clock, promises = load("engine"), load("promises")["sets"]
    shown = {"dbpedia14": "DBpedia, 14 topics,", "yelp_polarity_sent": "sentences of Yelp, good or bad,",
             "banking77": "Banking77, 77 intents,", "goemotions": "GoEmotions, 28 emotions,",
             "mrpc": "MRPC, pairs of sentences,"}  # fmt: skip
    ours = {name: found[paper_results.OURS] for name, found in promises.items()}
    less = {name: found["flops_speedup_of_all_together"] for name, found in ours.items()}
    others = "; ".join(f"{said} {less[name]:.1f}" for name, said in shown.items())
    made, missed = (sum(each[key] for each in ours.values()) for key in ("promises", "broken"))
    corpora = sum(bool(each["promises"]) for each in ours.values())

    def times(run: str, other: str, digits: int = 1) -> str:
        """How many times as fast, by the medians in the table."""
        return f"{rate(clock, run) / rate(clock, other):.{digits}f}"

    early = [times(f"engine {p}", f"full depth {p}") for p in ("fp32", "bf16", "int8")]
    piped = [
        times(f"engine {p} with tokenizing", f"transformers.pipeline{more}", 0)
        for p, more in (("fp32", ""), ("bf16", " bf16"))
    ]
    truth = load("ag_news")
    (leaving,) = truth["operating_points"].values()
    whole = next(row for row in truth["speeds"] if row["speed"] == 0)
    (bag,) = (row for row in paper_results.results()["ag_news"]["fixed"] if row["layers"] == 0)
    return f"""Texts labelled per second on {clock["machine"]["cores"]} cores of a CPU ({clock["machine"]["processor"]}), in memory, without tokenizing unless stated: AG News, short news ({clock["mean_tokens"]:.0f} tokens) in
4 topics, by a MiniLM with 6 layers. In brackets: labels that are the same as the whole model's in fp32.

{peers_table(clock)}

* **With exits**, the same engine is {early[0]} times as fast in fp32, {early[1]} in bf16 and {early[2]} in int8, within a limit of {100 * clock["promised"]:g} %; {100 * clock["exits"][0] / sum(clock["exits"]):.0f} % of the texts are answered
  before the first layer. With tokenizing, that is {piped[0]} times as fast as `transformers.pipeline` in fp32, and {piped[1]} times in bf16.
* **AG News is an easy corpus.** With exits, other corpora take so many times less arithmetic, at 1 %: {others}
  ([all results](docs/results.md)). Exits pay least for opinions (emotions, star ratings) and for pairs of texts: there about half of the work remains.
* **The limit** was missed in {100 * missed / made:.1f} % of {made:,} trial calibrations on {corpora} corpora; up to 5 % is allowed.
* **True labels**: the whole model is right in {100 * whole["accuracy"]:.1f} % of {truth["rows"]:,} texts, and in {100 * leaving["accuracy"]:.1f} % with exits. The linear model alone gives the whole model's
  label for {100 * bag["agreement"]:.1f} % of the texts: too few for a limit of 1 %.
* **Precision**: the table shows what bf16 or int8 alone change. bf16 is the default on processors that multiply it; `--precision fp32`
  is your model's own; int8 needs a [calibration of its own](docs/calibration.md).
* **The pipeline** gets batches of 32 texts in their order, the others batches of about one length, which makes them faster, too ([how it
  was measured](docs/benchmarks.md)). A dash: not measured. GPUs: not measured yet.
"""


def readme() -> str:
    """README.md with its results block renewed."""
    block = headline()
    text = (ROOT / "README.md").read_text()
    pattern = r"(?<=<!-- results:start -->\n).*?(?=<!-- results:end -->)"
    return re.sub(pattern, lambda _: block + "\n", text, flags=re.DOTALL)


def main() -> None:
    """Write the files, or compare them."""
    pages = {
        ROOT / "docs" / "results.md": results_page(),
        ROOT / "docs" / "benchmarks.md": performance_page(),
        ROOT / "docs" / "scale.md": scale_page(),
        ROOT / "README.md": readme(),
    }
    if "--check" in sys.argv:
        stale = [path.name for path, text in pages.items() if path.read_text() != text]
        raise SystemExit(
            f"{', '.join(stale)}: run python -m benchmarks.pages.tables" if stale else 0
        )
    for path, text in pages.items():
        path.write_text(text)
    if found := paper_results.results():
        figures.speeds(found)
        figures.certainty(found[figures.CLOSE_UP])
        figures.exits(found[figures.CLOSE_UP])


if __name__ == "__main__":
    main()
