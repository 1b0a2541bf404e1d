"""Runs a job until it ends well, while its processes are killed and its store is spoilt."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT
from benchmarks.faults.exactly_once import Watch
from benchmarks.faults.faultproxy import KINDS as FAULTS
from benchmarks.faults.faultproxy import Fault, FaultProxy
from benchmarks.faults.processes import Family

#: Share of runs that are struck before their first commit, and after the last one, if they live to
#: see it. In between they are struck again and again.
AT_START, AT_END = 0.25, 0.6
#: Runs without an own kill that may fail one after the other on a bad store; then it rests.
PATIENCE = 5
#: Seconds without a commit after which a run hangs, and those that its processes have to go away.
HANG_LIMIT, GONE_LIMIT = 600.0, 5.0
#: Share of kills that follow the one before them at once.
TOGETHER = 0.3
TICK = 0.01


@dataclass
class Tally:
    """Everything that was drawn and that happened."""

    passes: int = 0
    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    kills_by_phase: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[str] = field(default_factory=Counter)
    excused_failures: Counter[str] = field(default_factory=Counter)  # last lines, exit code 1
    runs_waited_for: int = 0  # some processes outlived their driver by more than a moment
    runs_cleaned_up: int = 0  # some had to be killed
    processes_cleaned_up: Counter[str] = field(default_factory=Counter)
    longest_exit_after_raylet_kill: float = 0.0
    calm_runs: int = 0
    weather: Counter[str] = field(default_factory=Counter)  # as drawn
    listings: int = 0
    files_read: int = 0
    reader_store_errors: int = 0
    rows_quarantined: int = 0
    failed_checks: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # exits that should not be
    seconds: float = 0.0

    @classmethod
    def of(cls, part: dict[str, Any]) -> "Tally":
        """As it was written down; a new one of nothing."""
        tally = cls(**{each.name: part[each.name] for each in fields(cls) if each.name in part})
        for each in fields(cls):
            if each.type == Counter[str]:
                setattr(tally, each.name, Counter(getattr(tally, each.name)))
        return tally

    def wrong(self) -> bool:
        return bool(self.failed_checks or self.findings)


class Weather:
    """Changes the proxy's fault at random moments."""

    def __init__(self, rng: np.random.Generator, proxy: FaultProxy, tally: Tally) -> None:
        self.rng, self.proxy, self.tally = rng, proxy, tally
        self._next = 0.0
        self.resting = False

    def tick(self) -> None:
        """Draw another fault if it is time."""
        if not self.resting and time.monotonic() >= self._next:
            fault = self.draw()
            self.proxy.fault = fault
            self.tally.weather[fault.kind] += 1
            self._next = time.monotonic() + self.rng.uniform(0.2, 2.0)

    def draw(self) -> Fault:
        """Fair weather in two of five draws."""
        if self.rng.random() < 0.4:
            return Fault()
        kind = str(self.rng.choice([kind for kind in FAULTS if kind != "pass"]))
        low, high = {"delay": (0.01, 1.0), "throttle": (2e3, 2e5)}.get(kind, (1.0, 2e4))
        return Fault(kind, float(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def rest(self, resting: bool) -> None:
        """Let everything pass for the time being."""
        self.resting = resting
        if resting:
            self.proxy.fault = Fault()

    def faults(self) -> int:
        """How often the proxy has struck so far."""
        return sum(n for kind, n in self.proxy.counts.items() if kind != "connections")


@dataclass
class Kill:
    """One that is still to come."""

    kind: str
    phase: str
    pause: float  # from the phase's beginning, or from the kill before
    due: float | None = None


class Storm:
    """Runs a command until it ends well, killing what belongs to it."""

    def __init__(
        self,
        rng: np.random.Generator,
        kills: dict[str, int],
        family: Family,
        weather: Weather | None,
        tally: Tally,
        slices: int,
        logs: Path,
    ) -> None:
        self.rng, self.family, self.weather, self.tally = rng, family, weather, tally
        self.left = Counter(kills)
        self.slices, self.logs = slices, logs
        self._start_up = 10.0  # seconds, as last seen

    def until_done(self, command: list[str], environment: dict[str, str], watch: Watch) -> None:
        """One pass."""
        failures = 0
        while True:
            if self.weather:
                self.weather.rest(failures >= PATIENCE)
                self.tally.calm_runs += failures >= PATIENCE
            struck = self.tally.kills.total()
            code = self.run(command, environment, watch)
            if code == 0:
                return
            failures = failures + 1 if self.tally.kills.total() == struck else 0
            if failures > PATIENCE:
                self.tally.failed_checks.append(f"{failures} runs on end failed unprovoked")
                return

    def run(self, command: list[str], environment: dict[str, str], watch: Watch) -> int:
        """One run; returns its exit code."""
        self.tally.runs += 1
        log = self.logs / f"{self.tally.runs:04d}.log"
        faults = self.weather.faults() if self.weather else 0
        with open(log, "wb") as file:
            driver = subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        self.family.driver = driver
        struck = self._disturb(driver, watch)
        code = driver.wait()
        spoilt = self.weather is not None and self.weather.faults() > faults
        self._judge(code, struck, spoilt, log)
        self._clean_up()
        return code

    def _disturb(self, driver: subprocess.Popen[bytes], watch: Watch) -> list[str]:
        """Watch a run to its end; returns the kinds that were killed."""
        started, before, struck = time.monotonic(), watch.committed, []
        kills, last = self._draw_run(), started
        progress, committed = started, before
        while driver.poll() is None:
            now = time.monotonic()
            if watch.committed != committed:
                if committed == before:
                    self._start_up = now - started
                progress, committed = now, watch.committed
            if self.weather:
                self.weather.tick()
            phase = self._phase(before, committed)
            if now - max(progress, last) > HANG_LIMIT:
                struck.append("hung")
                driver.kill()
                break
            for kill in list(kills):
                if self.left[kill.kind] == 0:
                    kills.remove(kill)
                    kills += self._draw(kill.phase)
                    continue
                if kill.due is None and kill.phase == phase:
                    kill.due = max(now, last) + kill.pause
                if kill.due is not None and now >= kill.due and self._strike(kill, phase):
                    struck.append(kill.kind)
                    last = now
                    kills.remove(kill)
                    if kill.kind in ("driver", "raylet"):
                        kills.clear()
                        break
                    if kill.phase == "labelling":
                        kills += self._draw("labelling", self.rng.random() < TOGETHER)
            time.sleep(TICK)
        if "raylet" in struck:
            longest = max(self.tally.longest_exit_after_raylet_kill, time.monotonic() - last)
            self.tally.longest_exit_after_raylet_kill = round(longest, 1)
        return struck

    def _draw_run(self) -> list[Kill]:
        """What will strike a run first, in each of its phases."""
        kills = self._draw("labelling")
        if self.rng.random() < AT_START:
            kills += self._draw("start-up")
        if self.rng.random() < AT_END:
            kills += self._draw("closing")
        return kills

    def _draw(self, phase: str, together: bool = False) -> list[Kill]:
        """A kill of a kind of which some are left, at once if `together`; none if none is."""
        left = {kind: n for kind, n in self.left.items() if n > 0}
        if not left:
            return []
        weights = np.array(list(left.values())) / sum(left.values())
        kind = str(self.rng.choice(list(left), p=weights))
        low, high = {
            "start-up": (0.3, max(0.3, self._start_up)),
            "labelling": (0.3, 3.0),
            "closing": (0.0, 0.5),
        }[phase]
        return [Kill(kind, phase, 0.0 if together else float(self.rng.uniform(low, high)))]

    def _phase(self, before: int, committed: int) -> str:
        if committed >= self.slices:
            return "closing"
        return "labelling" if committed > before else "start-up"

    def _strike(self, kill: Kill, phase: str) -> bool:
        """SIGKILL one process of the kind, if there is one."""
        victims = self.family.of_kind(kill.kind)
        if not victims:
            return False
        victim = victims[int(self.rng.integers(len(victims)))]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        self.left[kill.kind] -= 1
        self.tally.kills[kill.kind] += 1
        self.tally.kills_by_phase[phase] += 1
        return True

    def _judge(self, code: int, struck: list[str], spoilt: bool, log: Path) -> None:
        """Write down how a run ended, and whether it may end like that."""
        self.tally.exit_codes[str(code)] += 1
        lines = log.read_text(errors="replace").splitlines() or [""]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)] or lines
        last = errors[0 if spoilt else -1][:300]
        excused = {0: True, -signal.SIGKILL: "driver" in struck, 1: bool(struck) or spoilt}
        if "hung" in struck or not excused.get(code, False):
            killed = ", ".join(struck) or "nothing"
            self.tally.findings.append(f"{log.name}: exit code {code} after {killed}: {last}")
            print(self.tally.findings[-1], file=sys.stderr)
        elif code == 1:
            self.tally.excused_failures[last] += 1

    def _clean_up(self) -> None:
        """Let all processes of a run go before the next."""
        if not self.family.members():
            return
        self.tally.runs_waited_for += 1
        names = self.family.wait_until_gone(GONE_LIMIT)
        self.tally.runs_cleaned_up += bool(names)
        self.tally.processes_cleaned_up.update(names)
