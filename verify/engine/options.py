"""The gate's command-line options, and what they mean once read."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from fixtures.ranks import gpus
from verify.engine.check import PROCESSES, THREADS, Case, Check, Target
from verify.engine.known import Known
from verify.engine.launchers import PROCESS_WORLD_SIZES
from verify.engine.profile import PROFILES, Profile
from verify.engine.report import Counts
from verify.page.files import NoPage, assert_can_be_written

MAX_WORLD_SIZE = 64
#: The type of the target.
Verified = TypeVar("Verified", bound=Target)


class UsageError(Exception):
    """Options or environment that a verification cannot run with; the message says what to change."""


@dataclass(frozen=True)
class Options(Generic[Verified]):
    """What was asked for, read and found good."""

    target: Verified
    #: The target once for each class and buffer of it that is looked at.
    subjects: tuple[Verified, ...]
    checks: Mapping[str, Check]
    launchers: tuple[str, ...]
    profile: Profile
    seed: int
    backend: str
    world_sizes: tuple[int, ...]
    known: tuple[Known, ...]
    known_from: Path | None
    #: Whether what the target inherits from upstream is looked for.
    inherits: bool
    counts: Counts
    report: Path | None
    #: Where the failures of this run are to be written as a file of known failures.
    write_known: Path | None
    page: Path | None
    case: Case | None

    def parts(self, check: Check) -> int:
        """On how many launchers a check runs in this verification."""
        return sum(launcher in self.launchers for launcher in check.launchers)

    def fingerprint(self) -> dict[str, str]:
        """What ranks of one job must agree on: by the option that says it, in words."""
        return {
            "--target": self.target.options(),
            "--only": ",".join(self.checks),
            "--launcher": ",".join(self.launchers),
            "--profile": self.profile.name,
            "--backend": self.backend,
            "--known": "; ".join(map(str, self.known)) or "none",
            "--case": json.dumps(self.case.as_json()) if self.case else "none",
            "--subject": ", ".join(subject.options() for subject in self.subjects),
            "--hazards": "fail" if self.counts.hazards else "report",
            "--inherited": "fail" if self.counts.inherited else "report",
            "--require": ",".join(self.counts.required) or "nothing",
        }


def add_options(parser: Any, other_html: bool = False) -> None:
    """Declare the gate's options in a pytest parser; ``other_html``: whether another plugin has declared --html."""
    group = parser.getgroup("verify", "sam3-video-verify")
    group.addoption("--only", metavar="NAME[,NAME]", help="run these groups and checks only")
    group.addoption("--known", metavar="FILE", help="known failures (TOML), strict; 'none' for none at all")
    group.addoption(
        "--write-known", metavar="FILE", help="write this run's failures as a file for --known to start from"
    )
    group.addoption("--force", action="store_true", help="let --write-known write over a file")
    group.addoption("--report", metavar="FILE", help="write the report as JSON")
    if not other_html:
        group.addoption("--html", dest="htmlpath", metavar="FILE", help="write the report as a page to look at")
    group.addoption("--from", dest="page_of", metavar="REPORT", help="make the page of this report, and run nothing")
    group.addoption("--pictures", metavar="FOLDER", help="with --from, write the report's pictures into this folder")
    group.addoption("--list-checks", action="store_true", help="list all checks and end")
    group.addoption("--explain", metavar="NAME", help="say what a check is for and end")
    group.addoption("--profile", default="quick", choices=sorted(PROFILES), help="how many cases are drawn")
    group.addoption("--backend", default="gloo", choices=["gloo", "nccl"], help="of the ranks that are processes")
    group.addoption(
        "--hazards", default="report", choices=["report", "fail"], help="whether a hazard fails the verification"
    )
    group.addoption(
        "--inherited",
        default="report",
        choices=["report", "fail"],
        help="whether a failure that upstream's unchanged code makes fails the verification",
    )
    group.addoption("--require", metavar="NAME[,NAME]", help="fail where one of these groups and checks cannot be made")
    group.addoption("--world-sizes", metavar="N[,N]", help="of the ranks that are processes (default: 2,4)")
    group.addoption("--launcher", choices=[THREADS, PROCESSES], help="run on these ranks only")
    group.addoption("--carrier", choices=[THREADS, PROCESSES], help="the former name of --launcher")
    group.addoption("--case", metavar="JSON", help="run exactly this case, as a finding's replay line gives it")
    group.addoption("--seed", type=int, metavar="N", help="of a randomised profile, to draw its cases again")


def _world_sizes(text: str | None) -> tuple[int, ...]:
    if text is None:
        return PROCESS_WORLD_SIZES
    try:
        sizes = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"--world-sizes {text}: expected numbers with commas between them") from None
    for size in sizes:
        if not 1 <= size <= MAX_WORLD_SIZE:
            raise UsageError(f"--world-sizes {text}: a world size is from 1 to {MAX_WORLD_SIZE}, not {size}")
    return sizes


def _assert_made(required: Sequence[str], checks: Mapping[str, Check]) -> None:
    left_out = [name for name in required if name not in checks]
    if left_out:
        raise UsageError(f"--require: {left_out[0]} is required, and --only leaves it out")


def _case(text: str | None, checks: Mapping[str, Check]) -> Case | None:
    if text is None:
        return None
    if len(checks) != 1:
        raise UsageError("--case runs one case of one check: name the check with --only")
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        (check,) = checks.values()
        case = check.from_json(data)
    except ValueError as error:
        raise UsageError(f"--case: {error}") from None
    if not 1 <= case.world_size <= MAX_WORLD_SIZE:
        raise UsageError(f"--case: a world size is from 1 to {MAX_WORLD_SIZE}, not {case.world_size}")
    return case


def job_world_size(environment: Mapping[str, str] = os.environ) -> int | None:
    """The world size that torchrun has set, or None where pytest was started without it.

    Raises:
        UsageError: when the variables are there in part, or out of range.
    """
    if "WORLD_SIZE" not in environment:
        return None
    text = environment["WORLD_SIZE"]
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORLD_SIZE:
        raise UsageError(f"WORLD_SIZE={text}: a world size is from 1 to {MAX_WORLD_SIZE}")
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        if name not in environment:
            raise UsageError(
                f"WORLD_SIZE is set and {name} is not: start with torchrun --nproc-per-node N -m pytest verify, "
                "or unset WORLD_SIZE"
            )
    rank = environment["RANK"]
    if not rank.isdecimal() or int(rank) >= int(text):
        raise UsageError(f"RANK={rank}: expected a number from 0 to {int(text) - 1}, below WORLD_SIZE={text}")
    return int(text)


def _assert_writable(given: argparse.Namespace) -> None:
    """Refuse --write-known where it could not be written, or would take something away."""
    if given.write_known is None:
        if given.force:
            raise UsageError("--force says that --write-known may write over a file: name the file")
        return
    path = Path(given.write_known)
    said = f"--write-known {path}"
    if not path.parent.is_dir():
        raise UsageError(f"{said}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{said}: is a folder; name a file in it")
    if path.exists() and not given.force:
        raise UsageError(f"{said}: the file is there already; --force writes over it, reasons and all")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{said}: nothing can be written there")


def _launchers(launcher: str | None, carrier: str | None) -> tuple[str, ...]:
    if carrier is not None:
        warnings.warn("--carrier is now called --launcher, and will be gone in the next release", stacklevel=2)
    named = launcher or carrier
    return (named,) if named else (THREADS, PROCESSES)


def _assert_gpus(
    launchers: Sequence[str], job: int | None, sizes: Sequence[int], environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse NCCL where there is not a GPU for each rank on this machine.

    Raises:
        UsageError: with what to do instead.
    """
    if PROCESSES not in launchers:
        raise UsageError(
            "--backend nccl is of ranks that are processes, and there are none with --launcher threads: leave out one "
            "of the two"
        )
    if not torch.distributed.is_nccl_available():
        raise UsageError("--backend nccl: this torch was built without NCCL; use --backend gloo")
    ranks, fewer = max(sizes), "fewer ranks with --world-sizes"
    if job:
        for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            if not environment.get(name, "").isdecimal():
                raise UsageError(f"--backend nccl needs {name}, which torchrun sets: start the ranks with it")
        # On several nodes, those that are here.
        ranks, fewer = int(environment["LOCAL_WORLD_SIZE"]), "fewer ranks a node with torchrun --nproc-per-node"
    if (here := gpus.count()) < ranks:
        raise UsageError(
            f"--backend nccl needs a GPU a rank: {ranks} ranks, {here} GPUs here; use --backend gloo, or {fewer}"
        )


def _page(given: argparse.Namespace) -> Path | None:
    """The file for the page.

    Raises:
        UsageError: where none can be written there.
    """
    if given.pictures is not None:
        raise UsageError("--pictures writes the pictures of a report that is there: name it with --from")
    if given.htmlpath is None:
        return None
    if not given.htmlpath:
        raise UsageError("--html names nothing")
    path = Path(given.htmlpath)
    try:
        assert_can_be_written(path, beside=Path(given.report) if given.report else None)
    except NoPage as error:
        raise UsageError(str(error)) from None
    return path


def read_options(
    given: argparse.Namespace,
    job: int | None,
    target: Verified,
    checks: Mapping[str, Check],
    known: tuple[Known, ...] = (),
    known_from: Path | None = None,
    subjects: Sequence[Verified] = (),
    required: tuple[str, ...] = (),
) -> Options[Verified]:
    """Read pytest's parsed options for a target, the checks that are to be made of it, and its known failures.

    ``job`` is torchrun's world size, ``required`` the checks that are to be made.

    Raises:
        UsageError: in one sentence, for anything that cannot be run as asked.
    """
    sizes = (job,) if job else _world_sizes(given.world_sizes)
    _assert_made(required, checks)
    launchers, case = _launchers(given.launcher, given.carrier), _case(given.case, checks)
    if given.backend == "nccl":
        _assert_gpus(launchers, job, (case.world_size,) if case else sizes)
        if job:
            launchers = (PROCESSES,)  # what this process computes on threads would be on its rank's GPU
    if given.report and not Path(given.report).parent.is_dir():
        raise UsageError(f"--report {given.report}: there is no folder {Path(given.report).parent}")
    _assert_writable(given)
    profile = PROFILES[given.profile]
    seed = given.seed if given.seed is not None else secrets.randbits(31) if profile.randomised else 0
    return Options(
        target=target,
        checks=checks,
        launchers=launchers,
        profile=profile,
        seed=seed,
        backend=given.backend,
        world_sizes=sizes,
        known=known,
        known_from=known_from,
        inherits=given.known != "none",
        counts=Counts(given.hazards == "fail", given.inherited == "fail", required),
        subjects=tuple(subjects) or (target,),
        report=Path(given.report) if given.report else None,
        write_known=Path(given.write_known) if given.write_known else None,
        page=_page(given),
        case=case,
    )
