"""What a measurement came to: a table for the terminal, and JSON."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutation.judging import (
    DOES_NOT_RUN,
    HAZARDOUS,
    NO_LONGER_MADE,
    NOT_REACHED,
    SURVIVED,
    TIMED_OUT,
    Judged,
    Timed,
)
from benchmarks.mutation.mutants import Mutant
from benchmarks.mutation.score import CONFIDENCE, OUTCOMES, score_of
from verify.engine.result import NOT_APPLICABLE, PASSED

#: Outcomes of mutants that a reader is to look at, one by one.
_SHOWN = (SURVIVED, NOT_REACHED, TIMED_OUT, HAZARDOUS, NO_LONGER_MADE)


@dataclass(frozen=True)
class Measurement:
    """A body's mutants, how each ended, and of how many they were drawn."""

    body: str
    #: What was measured stands on it.
    commit: str
    #: How many mutants the body has.
    all_mutants: int
    #: The seed of the sample; None where all were judged.
    seed: int | None
    baseline: tuple[Timed, ...]
    judged: tuple[tuple[Mutant, Judged], ...]
    every_check: bool
    wall_seconds: float

    @property
    def processor_seconds(self) -> float:
        return sum(judged.seconds or 0.0 for _, judged in self.judged)


def commit() -> str:
    """The commit that this stands on, and whether anything was changed since; "unknown" outside of a repository."""
    folder = Path(__file__).parent
    said = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return "unknown"
        said.append(done.stdout.strip())
    return f"{said[0]} with changes" if said[1] else said[0]


def as_json(measured: Measurement) -> dict[str, Any]:
    outcomes = [judged.outcome for _, judged in measured.judged]
    return {
        "body": measured.body,
        "commit": measured.commit,
        "mutants": measured.all_mutants,
        "seed": measured.seed,
        "every_check": measured.every_check,
        "score": asdict(score_of(outcomes)),
        "wall_seconds": round(measured.wall_seconds, 1),
        "processor_seconds": round(measured.processor_seconds, 1),
        "baseline": [asdict(timed) for timed in measured.baseline],
        "judged": [
            {
                "name": mutant.name,
                "module": mutant.module,
                "operator": mutant.operator,
                "line": mutant.line,
                "diff": mutant.diff,
                **asdict(judged),
            }
            for mutant, judged in measured.judged
        ],
    }


def write(measured: Measurement, path: Path) -> None:
    path.write_text(json.dumps(as_json(measured), indent=1) + "\n", encoding="utf-8")


class NoMeasurement(Exception):
    """A file holds no measurement of this body; the message says why."""


@dataclass(frozen=True)
class Earlier:
    """What is taken from a measurement that was made before."""

    seed: int | None
    judged: tuple[tuple[Mutant, Judged], ...]


def read(path: Path, body: str, mutants: Sequence[Mutant]) -> Earlier:
    """Read what ``write`` wrote of a body that has these ``mutants`` now.

    Raises:
        NoMeasurement: where the file cannot be read, is of another body, or has a mutant that is none of ``mutants``.
    """
    by_name = {mutant.name: mutant for mutant in mutants}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["body"] != body:
            raise NoMeasurement(f"{path} measured {data['body']}, not {body}")
        ended = [
            (by_name[one["name"]], Judged(one["outcome"], tuple(one["killers"]), one["message"], one["seconds"]))
            for one in data["judged"]
        ]
        return Earlier(data["seed"], tuple(ended))
    except OSError as error:
        raise NoMeasurement(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise NoMeasurement(f"{path} holds no measurement of the code as it is now: {error}") from None


def _share_of_kills(measured: Measurement) -> list[str]:
    """How many mutants each check kills, and how many that no other kills: all checks were made of each."""
    kills: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for _, judged in measured.judged:
        kills.update(judged.killers)
        if len(judged.killers) == 1:
            alone.update(judged.killers)
    lines = [f"  {check:<42} {count:>5} {alone[check]:>6}" for check, count in kills.most_common()]
    without = [timed.check for timed in measured.baseline if timed.outcome == PASSED and timed.check not in kills]
    return [
        "",
        f"  {'check':<42} {'kills':>5} {'alone':>6}",
        *lines,
        "",
        "kill none of these: " + (", ".join(without) or "-"),
    ]


def lines(measured: Measurement) -> list[str]:
    """The table, the survivors and, where every check was made, what each check kills."""
    outcomes = [judged.outcome for _, judged in measured.judged]
    counted = Counter(outcomes)
    sample = "all" if measured.seed is None else f"a sample (seed {measured.seed})"
    cannot_kill = [
        f"{timed.check} ({timed.outcome})"
        for timed in measured.baseline
        if timed.outcome not in (PASSED, NOT_APPLICABLE)
    ]
    text = [f"{measured.body}: {len(outcomes)} of {measured.all_mutants} mutants, {sample}", ""]
    text += [f"  {outcome:<18} {counted[outcome]:>5}" for outcome in OUTCOMES if counted[outcome]]
    text += ["", f"score: {score_of(outcomes)}, {CONFIDENCE:.0%} interval"]
    if counted[DOES_NOT_RUN]:
        text.append(f"without those that do not run: {score_of(outcomes, with_those_that_do_not_run=False)}")
    if cannot_kill:
        text.append("cannot kill, as they do not pass the unedited body: " + ", ".join(cannot_kill))
    text.append(f"{measured.processor_seconds:.0f} s of processor, {measured.wall_seconds:.0f} s by the clock")
    if measured.every_check:
        text += _share_of_kills(measured)
    for outcome in _SHOWN:
        found = sorted(
            ((mutant, judged) for mutant, judged in measured.judged if judged.outcome == outcome),
            key=lambda pair: (pair[0].module, pair[0].line, pair[0].name),
        )
        if found:
            text += ["", f"{outcome}:"]
        for mutant, judged in found:
            text += ["", f"  {mutant.name}  ({mutant.module})"]
            text += [f"    {line}" for line in mutant.diff.splitlines()]
            text += [f"    {', '.join(judged.killers)}"] if judged.killers else []
    return text
