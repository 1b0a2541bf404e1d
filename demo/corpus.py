"""A small corpus of support tickets, made up on the spot: `python demo/corpus.py FOLDER`.

Four classes. Most tickets name their subject plainly; one in three mixes two subjects, and what is
still open decides the class, so that some rows need more layers than others.
Writes FOLDER/train, FOLDER/dev (labelled) and FOLDER/tickets (to be labelled, by day).
"""

import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = {
    "billing": [
        "the invoice of {month} lists {number} euros twice",
        "my card was charged {number} euros after I cancelled",
        "the discount code is not on the bill for {month}",
        "the refund of {number} euros has not reached my bank",
    ],
    "delivery": [
        "parcel {number} has been in the depot since {month}",
        "the courier left order {number} with a neighbour I do not know",
        "the box arrived crushed and one of {number} cups is broken",
        "tracking says delivered but nothing came on the {number}th",
    ],
    "account": [
        "I cannot sign in since I changed my address in {month}",
        "the reset link for user {number} has expired",
        "please merge my two profiles, the old one is from {month}",
        "somebody else has logged in to my profile {number} times",
    ],
    "product": [
        "the kettle switches itself off after {number} seconds",
        "does the lamp of {month} fit a {number} watt bulb",
        "the app freezes on page {number} of the manual",
        "the battery lasts {number} minutes, the leaflet promised more",
    ],
}
OPENINGS = ["Hello,", "Hi,", "Good morning,", "To whom it may concern:", "Second message:", ""]
CLOSINGS = ["Thank you.", "Please help.", "I have waited for {number} days.", "Regards", ""]
ASIDES = [
    "Never mind that {aside}, this is about something else: {subject}.",
    "{aside}, but that is solved. My question now: {subject}.",
    "Question one: {aside}. Question two: {subject}. You have answered question one.",
    "Question one: {subject}. Question two: {aside}. You have answered question two.",
    "Earlier I wrote that {aside} and that {subject}; please close the first of the two.",
    "Earlier I wrote that {subject} and that {aside}; please close the second of the two.",
]
MONTHS = ["January", "March", "April", "June", "August", "October", "December"]


def ticket(random: random.Random) -> tuple[str, str]:
    """One text and its class."""
    label = random.choice(list(SUBJECTS))
    subject = random.choice(SUBJECTS[label])
    if random.random() < 0.33:
        other = random.choice([name for name in SUBJECTS if name != label])
        aside = random.choice(SUBJECTS[other])
        body = random.choice(ASIDES).format(aside=aside, subject=subject)
    else:
        body = subject + "."
    text = " ".join([random.choice(OPENINGS), body, random.choice(CLOSINGS)]).strip()
    return text.format(month=random.choice(MONTHS), number=random.randint(2, 900)), label


def write(path: Path, rows: list[tuple[str | None, str]], labelled: bool) -> None:
    """One Parquet shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[object]] = {"id": list(range(len(rows))), "text": [t for t, _ in rows]}
    if labelled:
        columns["label"] = [label for _, label in rows]
    pq.write_table(pa.table(columns), path)


def main(folder: Path) -> None:
    """Write the corpus; the same on every machine."""
    source = random.Random(2020)
    write(folder / "train" / "0.parquet", [ticket(source) for _ in range(1500)], labelled=True)
    write(folder / "dev" / "0.parquet", [ticket(source) for _ in range(300)], labelled=True)
    for day in (21, 22, 23):
        rows: list[tuple[str | None, str]] = [ticket(source) for _ in range(1200)]
        rows[7] = (None, "")  # real corpora have holes
        write(folder / "tickets" / f"dt=2026-11-{day}" / "part-0.parquet", rows, labelled=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
