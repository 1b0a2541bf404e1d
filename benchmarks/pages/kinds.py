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

Published test rows, development rows with them where there are some. Calibrated on half of them and
judged by the other half, {results["splits"]} times, with a confidence of
{results["confidence"]:.0%}: at most one in twenty promises may be broken. *FLOPs*: full depth's by
those of all splits together; *on the clock*: the engine in float32 at the first of these points.
On {"; ".join(sorted(machines))}.

{table(names, rows)}

Scores leave later than labels: near a cut-off only the last layers tell on which side a row lies,
and to be as near as a tolerance asks for everywhere is more than to be on the same side. Where rows
to calibrate on are few, as here, the proof takes its share, too.
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
CLINC150's two questions at their points in one pass take {two["flops"]:.2f} times fewer FLOPs than
two passes, and on the clock the test rows go {two["clock"]:.2f} times as fast
({judged(two["clock"], 1.7)}). Against full depth that pass has {one["flops_speedup"]:.2f}x in
FLOPs, and {one["on_the_clock"]:.2f}x on the clock.
"""


def _windows() -> str:
    """How windows of a text are read."""
    results = load("windows")
    found = results["flops_speedup"]
    return f"""
The windows of a text go through the layers together. On IMDb, {results["windows_per_text"]:.1f}
of them a text, that saves {found["together"]:.2f}x where {results["share"]:.0%} of the answers
change; to read the first one to the end, and the others where it is not sure, saves
{found["first_1"]:.2f}x, and to begin with two {found["first_2"]:.2f}x (without a proof, at the best
thresholds for these rows).

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
    return f"\nTrained with no option of the recipe, except {said}.\n" if said else ""
