"""The HTML report: whole, self-contained, and looked at in a browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from unittest import mock

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from support.made_up_history import LABELS, ROWS, write_history
from support.records import end_run, record

from fastbert.calibration.bounds import interval, rows_to_tell
from pipelines.labelling.summary import Tally, totals
from pipelines.output.ledger import Ledger
from pipelines.output.storage import Storage
from pipelines.reports import analytics, questions
from pipelines.reports.cells import spread
from pipelines.reports.job import report
from pipelines.reports.lead import lead
from pipelines.reports.recipes import recipes
from pipelines.settings import ReportSettings

NIGHTS, SLICES = 20, 3
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("month")
    write_history(root / "out", NIGHTS, SLICES)
    report(ReportSettings(output=str(root / "out"), html=str(root / "made" / "report.html")))
    return (root / "made" / "report.html").read_text()


def section(page: str, title: str) -> str:
    return next(part for part in page.split("<section") if f"<h2>{title}</h2>" in part)


def test_every_section_has_its_table_and_picture(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        *("Alarms", "Labels", "Exit layers by label", "Exit layers", "Exit layers by run"),
        *("Cost", "Audit", "Drift of the exit layers", "Labels by run", "Uncertainty"),
        *("Where the time goes", "Slowest slices", "Errors", "Unreadable shards", "Runs", "Terms"),
    ]
    without = {"Alarms", "Exit layers by label", "Slowest slices", "Errors", "Unreadable shards"}
    without |= {"Runs", "Terms"}
    for title in titles:
        assert ("<svg" in section(page, title)) == (title not in without), title
        assert ("<table" in section(page, title)) == (title not in ("Alarms", "Terms")), title


def test_all_that_pictures_say_follows_light_and_dark(page):
    texts = re.findall(r"<text [^>]*>", page)
    assert texts
    assert not [text for text in texts if "fill: currentColor" not in text]


def test_it_says_what_happened(page):
    assert f"<b>{NIGHTS * SLICES * (ROWS - 1):,}</b>rows labelled" in page
    alarmed = set(re.findall(r"<b>(night-\d+)</b>", section(page, "Alarms")))
    assert alarmed == {f"night-{night:03d}" for night in range(NIGHTS - NIGHTS // 5, NIGHTS)}
    assert "s3://in/broken.parquet" in section(page, "Unreadable shards")
    runs = section(page, "Runs")
    assert [f"night-{night:03d}" in runs for night in range(NIGHTS)] == [True] * NIGHTS


def test_columns_that_nobody_filled_are_not_shown(page, tmp_path):
    assert "price per million" in section(page, "Cost")
    write_history(tmp_path / "out", 1, 1)
    summary = tmp_path / "out" / "ledger" / "runs" / "night-000.json"
    values = json.loads(summary.read_text()) | {"price": None, "price_per_million_rows": None}
    summary.write_text(json.dumps(values))
    report(ReportSettings(output=str(tmp_path / "out"), html=str(tmp_path / "r.html")))
    cost = section((tmp_path / "r.html").read_text(), "Cost")
    assert "seconds per million" in cost
    assert "price per million" not in cost


def test_exit_layers_by_label_add_up_to_the_labels(tmp_path):
    write_history(tmp_path / "out", 3, 2)
    found = analytics.open(str(tmp_path / "out"))
    cells = found.query(questions.EXITS_BY_LABEL)
    rows = cells.groupby("label")["rows"].sum()
    assert rows.to_dict() == found.query(questions.LABELS).set_index("label")["rows"].to_dict()
    layers = cells.groupby("layer")["rows"].sum()
    exits = found.query(questions.EXIT_LAYERS).set_index("layer")["rows"]
    assert layers.to_dict() == exits.to_dict()


def test_names_from_the_data_are_not_markup(page):
    assert "<b>parts</b>" not in page
    for label in LABELS:
        assert html.escape(label) in section(page, "Labels")


def test_it_needs_nothing_from_outside(page):
    urls = set(re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", page))
    outside = {url for pair in urls for url in pair if url and not url.startswith(("#", "data:"))}
    assert not outside
    assert "<script" not in page


def test_an_output_with_almost_nothing(tmp_path):
    write_history(tmp_path / "out", 1, 1)
    for summary in (tmp_path / "out" / "ledger" / "runs").iterdir():
        summary.unlink()  # the first run is still at work
    report(ReportSettings(output=str(tmp_path / "out"), html=str(tmp_path / "r.html")))
    assert "rows labelled" in (tmp_path / "r.html").read_text()


@dataclass
class Seen:
    """What Chromium makes of a page."""

    log: str
    dom: str
    pixels: np.ndarray  # (height, width, 4), 0 to 1


def look(page: str, folder, width: int, scheme: str) -> Seen:
    """Open the page, `width` pixels wide, in a light or dark scheme."""
    measure = """<script>document.body.dataset.width = document.documentElement.scrollWidth;
        document.body.dataset.pictures = [...document.querySelectorAll("svg")].map(
        svg => Math.round(svg.getBoundingClientRect().width)).join(" ");</script></body>"""
    page = page.replace("color-scheme: light dark", f"color-scheme: {scheme}")
    (folder / "page.html").write_text(page.replace("</body>", measure))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
        "--disable-background-networking --disable-component-update --disable-sync "
        f"--enable-logging=stderr --window-size={width},4000"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}"]
    url = (folder / "page.html").as_uri()
    dom = subprocess.run(
        [*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
    )
    picture = folder / "page.png"
    shot = subprocess.run(
        [*command, f"--screenshot={picture}", url],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Seen(dom.stderr + shot.stderr, dom.stdout, matplotlib.image.imread(picture))


@browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 500])
def test_in_a_browser(page, tmp_path, scheme, width):
    seen = look(page, tmp_path, width, scheme)
    assert "CONSOLE" not in seen.log
    assert int(re.search(r'data-width="(\d+)"', seen.dom)[1]) <= width  # no sideways scrolling
    drawn = [int(w) for w in re.search(r'data-pictures="([\d ]+)"', seen.dom)[1].split()]
    assert len(drawn) == page.count("<svg")
    assert all(300 < w < width for w in drawn)
    assert (seen.pixels[:, :, :3].mean() > 0.5) == (scheme == "light")
    # Each layer's colour covers some of the picture: bars are really there.
    for color in layer_colors(page, scheme):
        close = np.abs(seen.pixels[:, :, :3] - color).max(2) < 0.02
        assert close.sum() > 500, color


def layer_colors(page: str, scheme: str) -> list[np.ndarray]:
    bars = re.findall(
        r"fill: light-dark\((#\w{6}), (#\w{6})\)", section(page, "Exit layers by run")
    )
    colors = sorted({pair[scheme == "dark"] for pair in bars})
    assert len(colors) == 6
    return [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in colors]


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (96.25, 98.5, "too few to confirm or contradict the promise yet"),
        (96.25, 97.9, "this audit contradicts the promise"),
        (98.0, 98.5, "this audit confirms the promise"),
    ],
)
def test_the_promise_is_said_in_words(lower, upper, verdict):
    audit = {"audited": 2160, "agreement_percent": 97.5, "lower_percent": lower, "more_runs": 0}
    audit |= {"operating_point": "two percent", "audited_runs": 1}
    audits = pd.DataFrame(
        [audit | {"upper_percent": upper, "promised_percent": 98.0},
         audit | {"upper_percent": 97.0, "promised_percent": float("nan")}]
    )  # fmt: skip
    said = " ".join(lead(frames_of(audits)))
    assert "'two percent' promises that at most 2 % of its labels" in said
    shares = f"of all rows {100 - upper:.3g} % to {100 - lower:.3g} % do (with 95 % confidence)"
    differ = "Of 2,160 audited rows, 2.5 % differ from full depth, so"
    assert f"{differ} {shares}: {verdict}" in said
    without = " ".join(lead(frames_of(audits.tail(1))))
    assert "promises" not in without
    assert f"{differ} of all rows 3 %" in without


@pytest.mark.parametrize(
    ("agreed", "verdict"),
    [
        (3995, "these audits confirm the promise"),
        (3900, "these audits contradict the promise"),
        (3968, "It takes about 28 more runs with 200 audited rows each"),
        (3960, "too close to the promise"),
    ],
)
def test_audits_of_all_nights_add_up(agreed, verdict):
    """Where each alone tells nothing."""
    nights = pd.DataFrame({
        "checkpoint": ["x"], "operating_point": ["one percent"], "runs": [20],
        "audited_runs": [20], "audited": [4000], "agreed": [agreed], "promised_percent": [99.0],
    })  # fmt: skip
    found = recipes(mock.Mock(query=lambda _: nights))
    low, high = interval(agreed, 4000, 0.95)
    assert found["lower_percent"][0] == pytest.approx(100 * low, abs=1e-3)
    assert found["upper_percent"][0] == pytest.approx(100 * high, abs=1e-3)
    said = " ".join(lead(frames_of(found)))
    assert "Of 4,000 audited rows of 20 runs" in said
    assert verdict in said


@pytest.mark.parametrize(("failures", "rows"), [(0, 50), (1, 300), (6, 1000), (60, 1000)])
def test_rows_to_tell_against_trying_all(failures, rows):
    def tells(n: int) -> bool:
        low, high = interval(round(failures / rows * n), n, 0.95)
        return high <= 0.01 or low > 0.01

    found = rows_to_tell(failures, rows, 0.01, 0.95)
    assert tells(found)
    # Rounding lets the truth go up and down a little: it is never far from the first one.
    first = next(n for n in range(rows, found + 1) if tells(n))
    assert found <= 1.1 * first


def frames_of(audits: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the sentences are made of, of an output of 1,000 rows."""
    layers = pd.DataFrame({"rows": [600, 400]})
    costs = {"rows": [1000], "seconds_per_million": [2e6], "full_depth_seconds_per_million": [8e6]}
    costs |= {"price_per_million": [None], "full_depth_price_per_million": [None]}
    runs = pd.DataFrame({"rows": [1000], "truncated_rows": [120]})
    return {
        "exit layers": layers, "errors": pd.DataFrame({"rows": [7]}), "runs": runs,
        "recipes": audits, "costs": pd.DataFrame(costs),
    }  # fmt: skip


def test_sentences_come_first():
    frames = frames_of(pd.DataFrame(columns=["audited", "promised_percent"]))
    assert lead(frames) == [
        "1,000 rows are labelled, and 7 have an error in place of a label.",
        "Of 1,000 texts, 120 (12.0%) were longer than the model's input, so only their beginning "
        "was read.",
        "Labelling cost 33.3 minutes of the model; full depth for every row would have cost 2.2 "
        "hours of the model: 75% saved.",
    ]
    frames["accuracy"] = pd.DataFrame({"rows": [100, 300], "accuracy_percent": [99.0, 95.0]})
    frames["costs"] = frames["costs"].assign(
        price_per_million=[2000.0], full_depth_price_per_million=[6000.0]
    )
    assert lead(frames)[2] == "Of 400 rows with a true label, 96.0 % are labelled correctly."
    assert lead(frames)[-1] == (
        "Labelling cost 2.00 in money; full depth for every row would have cost 6.00 in money: 67% "
        "saved."
    )


def test_what_lists_leave_out_is_counted(tmp_path, capsys):
    """Of 300 labels a slice counts 256 by name, and a page or a terminal shows fewer."""
    ledger = Ledger(Storage(str(tmp_path / "out")))
    names = {f"c{i:03d}": 2 for i in range(256)}
    mine = record(rows=601, exits=[600, 0, 0], error_rows=1, exit_labels=[names, {}, {}])
    ledger.storage.put(mine.path, b"")
    bad = {f"s3://in/{i}.parquet": "broken" for i in range(60)}
    end_run(ledger, "night-1", [mine], totals(Tally([mine])) | {"bad_shards": bad})
    settings = ReportSettings(output=str(tmp_path / "out"), html=str(tmp_path / "r.html"))
    summary = report(settings)
    assert sum(row["rows"] for row in summary["labels"]) == 600
    assert summary["labels"][0]["percent"] == pytest.approx(100 * 2 / 600, abs=0.06)
    assert summary["labels"][-1]["label"] == "(other labels)"
    assert summary["labels"][-1]["rows"] == 600 - 2 * 256
    assert summary["unreadable_shards"][-1]["shard"] == "10 more"
    assert "(242 other labels)" in capsys.readouterr().err
    page = (tmp_path / "r.html").read_text()
    assert "(242 other labels)" in section(page, "Labels")
    assert "(242 other labels)" in section(page, "Exit layers by label")
    found = analytics.open(settings.output)
    for sql in (questions.LABELS_BY_RUN, questions.EXITS_BY_LABEL):
        assert found.query(sql)["rows"].sum() == 600
    wide = spread(found.query(questions.LABELS_BY_RUN), "rows", "run_id", "label", 20)
    assert wide.sum(axis="columns").tolist() == [600]
    assert len(wide.columns) == 21
    assert wide["(other labels)"].tolist() == [560]
