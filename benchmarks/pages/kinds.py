"""The part of docs/results.md about several labels, scores and several questions."""

from typing import Any

from benchmarks.pages.markdown import judged, load, table, where

#: What a set is, and what is asked of its first promise in FLOPs.
_NAMES = {
    "goemotions_multi": ("GoEmotions, all its labels", 1.8),
    "yelp_stars": ("Yelp stars as a score", 3.0),
    "clear_readability": ("CLEAR, ease of reading", 2.0),
    "clinc150_two": ("CLINC150, domain and intent in one pass", 3.0),
    "clinc150_domain": ("CLINC150, domain alone", None),
    "clinc150_intent": ("CLINC150, intent alone", None),
    "imdb_windows": ("IMDb, windows of 128 tokens", 1.5),
    "imdb_whole": ("IMDb, its first 512 tokens", None),
}
_MEASURES = {
    "accuracy": "right",
    "micro_f1": "F1",
    "r2": "R²",
    "mean_absolute_error": "off by",
    "right_side": "right side",
}


def _quality(found: dict[str, float], begins: str = "") -> str:
    """Measures in words."""
    return ", ".join(
        f"{said} {found[begins + name]:.3f}"
        for name, said in _MEASURES.items()
        if begins + name in found
    )


def _promise(asked: dict[str, Any]) -> str:
    about = {"tolerance": "off by more than", "cutoff": "beyond"}.get(asked["criterion"], "")
    within = " and ".join(f"{number:g}" for number in asked["within"])
    if not about:
        return f"{asked['share']:.0%}, {asked['criterion']}"
    return f"{asked['share']:.0%} {about} {within}"


def kinds_section() -> str:
    """What each set's promises are worth, and whether they are kept."""
    results = load("kinds")
    rows, machines = [], {where(each["machine"]) for each in results["sets"].values()}
    for name, (said, target) in _NAMES.items():
        found = results["sets"].get(name)
        if found is None:
            continue
        for question, of in found["questions"].items():
            for place, asked in enumerate(of["promises"]):
                speedup = asked["flops_speedup_of_all_together"]
                rows.append([
                    f"{said}{f': {question}' if question else ''}" * (place == 0),
                    _quality(of["full_depth"]) * (place == 0), _promise(asked),
                    _quality(asked, "mean_"), f"{speedup:.2f}x",
                    judged(speedup, target) if target and place == 0 else "",
                    f"{asked['on_the_clock']:.2f}x" if "on_the_clock" in asked else "",
                    f"{asked['broken']} of {asked['promises']}",
                ])  # fmt: skip
    names = ["set", "full depth", "promise", "at the point", "FLOPs", "target", "on the clock",
             "broken"]  # fmt: skip
    return f"""## Several labels, scores, several questions

The rows are the published test rows, and development rows if there are any. Half of them calibrate
and the other half judges, {results["splits"]} times, with a confidence of
{results["confidence"]:.0%}: at most one in twenty promises may be broken.

* *FLOPs*: full depth's FLOPs, divided by those of all splits together.
* *On the clock*: the engine in float32 at the first of these points.
* *Off by*: the mean absolute error.

Measured on {"; ".join(sorted(machines))}.

{table(names, rows)}

Scores leave later than labels. Near a cut-off, only the last layers show on which side a row is. A
tolerance requires more: a score must be close everywhere, not only on the same side. If there are
few rows to calibrate on, as here, the proof costs speed, too.
{_together(results)}{_windows()}{_options(results["sets"])}
```
{results["program"]}
```"""


def _together(results: dict[str, Any]) -> str:
    """Two questions in one pass, beside two passes."""
    if "one_pass_for_two" not in results:
        return ""
    two, one = results["one_pass_for_two"], results["sets"]["clinc150_two"]["together"]
    return f"""
CLINC150's two questions, at their points in one pass, take {two["flops"]:.2f} times fewer FLOPs
than two passes. On the clock, the test rows are labelled {two["clock"]:.2f} times as fast
({judged(two["clock"], 1.7)}). Compared with full depth, that pass saves {one["flops_speedup"]:.2f}x
in FLOPs, and {one["on_the_clock"]:.2f}x on the clock.
"""


def _windows() -> str:
    """How windows of a text are read."""
    results = load("windows")
    found = results["flops_speedup"]
    return f"""
The windows of a text go through the layers together. On IMDb, with
{results["windows_per_text"]:.1f} windows per text, other orders save less if {results["share"]:.0%}
of the answers may change (without a proof, at the best thresholds for these rows):

* all windows together: {found["together"]:.2f}x;
* the first window to the end, and the others if it is not sure: {found["first_1"]:.2f}x;
* the same with the first two windows: {found["first_2"]:.2f}x.

```
{results["program"]}
```
"""


def _options(sets: dict[str, Any]) -> str:
    """Where training was not as by default."""
    given = {name: each["options"] for name, each in sets.items() if each["options"]}
    said = "; ".join(
        f"{name} with "
        + " ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in options.items())
        for name, options in given.items()
    )
    return f"\nModels were trained with no option of the recipe, except {said}.\n" if said else ""
