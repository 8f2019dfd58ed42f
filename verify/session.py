"""One verification inside one process of pytest: what it holds, what it makes, and what that comes to."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from verify import request
from verify.engine import report as reports
from verify.engine.aftermath import Plan
from verify.engine.check import Check
from verify.engine.journal import Journal
from verify.engine.known import Known
from verify.engine.launchers import Launchers
from verify.engine.options import Options
from verify.engine.result import Result
from verify.target.fingerprint import identity
from verify.target.naming import Target
from verify.terminal import Account


@dataclass
class Session:
    """One verification inside one pytest process."""

    options: Options[Target]
    launchers: Launchers
    parts: list[Result] = field(default_factory=list)
    report: reports.Report | None = None
    #: How checks ended that others rest on.
    judged: dict[Any, Result] = field(default_factory=dict)
    #: What is being judged.
    judging: Target | None = None
    journal: Journal = field(default_factory=Journal)
    #: Writes how far it has come; None in a worker of xdist.
    account: Account | None = None
    #: What is shown on GitHub is shown when this is closed.
    shown: ExitStack = field(default_factory=ExitStack)
    #: Why there is no page, in a sentence, where one was asked for.
    no_page: str = ""

    @property
    def rank(self) -> int:
        return 0 if self.launchers.job is None else self.launchers.job.rank

    def subjects(self, check: Check) -> tuple[Target, ...]:
        """What a check is made of: each of the target's subjects, or the target itself."""
        return self.options.subjects if check.per_subject else (self.options.target,)

    def known(self, subject: Target) -> tuple[Known, ...]:
        """The failures of a subject that are known."""
        return request.known_failures(subject, self.options.known) if self.options.inherits else ()

    def changed(self, subject: Target) -> tuple[Known, ...]:
        """The failures of upstream that a subject does not inherit, as it has changed their code."""
        return request.changed_failures(subject) if self.options.inherits else ()


SESSION = pytest.StashKey[Session]()


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of xdist."""
    return hasattr(config, "workerinput")


def judges_here(config: pytest.Config) -> bool:
    """Whether this process judges, and alone: not under torchrun or xdist, whose ranks and workers do."""
    distributed = "WORLD_SIZE" in os.environ or is_worker(config) or getattr(config.option, "numprocesses", None)
    return not distributed and not config.option.collectonly


#: How long one check may take on one launcher, with the profile ``quick``.
SECONDS = 300


def scale(options: Options[Target]) -> int:
    """How many times as long a check may take with the profile that is chosen."""
    return max(1, options.profile.examples // 25)


#: For how much longer than a check may take by pytest's clock, which its process may no longer obey.
_OVERDUE = 60.0


def planned(gate: Session) -> list[reports.Planned]:
    """The checks that this run makes, by subject."""
    options, made = gate.options, []
    # Whether an entry is stale is told by a run of all its cases only.
    whole_run = options.case is None and len(options.launchers) > 1
    for check in options.checks.values():
        parts = options.parts(check)
        for subject in gate.subjects(check) if parts else ():
            known = whole_run and any(
                entry.check == check.name and not entry.avoidable for entry in gate.known(subject)
            )
            made.append(reports.Planned(check, subject.subject_name, parts, known))
    return made


def plan_of(gate: Session, doing: str) -> Plan:
    """What this run is to make, for whoever has to report where this process ends while it is ``doing`` something."""
    options = gate.options
    environment = reports.environment(options.backend, None, options.profile.name, options.seed)
    report, page = (str(path.absolute()) if path else None for path in (options.report, options.page))
    patience = SECONDS * scale(options) + _OVERDUE
    parts = tuple(planned(gate))
    return Plan(doing, identity(options.target), environment, parts, options.counts, report, patience, page)


def conclude(gate: Session, measure: bool) -> reports.Report:
    """The report of what has been made; ``measure``: with statements, for which the target is run once more."""
    # They import sam3, which may be a checkout's, found only after the options.
    from verify.statements import statements
    from verify.video.real import precision_of

    options = gate.options
    results, verdict, because = reports.conclude(planned(gate), gate.parts, options.counts)
    job = gate.launchers.job
    environment = reports.environment(
        options.backend, job.world_sizes()[0] if job else None, options.profile.name, options.seed
    )
    named = identity(options.target)
    environment["versions"]["sam3"] = named["sam3"]["version"]
    with_real_detector = {result.subject for result in results if result.group == "parity" and result.cases}
    precisions = [
        f"{subject.subject_name or options.target.spec} was run under bfloat16 autocast, as its callers run it; it "
        "does not run plain."
        for subject in options.subjects
        if measure and subject.subject_name in with_real_detector and precision_of(subject) is torch.bfloat16
    ]
    return reports.Report(
        named,
        environment,
        results,
        verdict,
        because,
        tuple(precisions),
        statements(options.target) if measure else (),
    )
