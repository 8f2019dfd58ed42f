"""The gate inside pytest: options, selection, ranks, and the report at the end.

Runs in three places: a plain pytest; xdist's controller and workers, where the workers judge and the controller
reports; and the ranks of torchrun, where all of them judge together and rank 0 reports.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import sys
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.ranks import RanksFailed, RendezvousError, Torchrun, gpus
from fixtures.toy.shrink import CannotShrink
from verify import request
from verify.ci.publication import publish, shown_on_github
from verify.engine import interrupt
from verify.engine import report as reports
from verify.engine.aftermath import Plan, ended, stack_at_end
from verify.engine.check import HAZARD, PROCESSES, THREADS, Check
from verify.engine.finding import finding_of
from verify.engine.journal import VARIABLE, Journal, journal_of_process, pages
from verify.engine.judge import Gate, violation_of, violation_of_error
from verify.engine.known import Known
from verify.engine.known_written import known_failures_file
from verify.engine.launchers import Launchers
from verify.engine.options import Options, UsageError, job_world_size
from verify.engine.report import Counts
from verify.engine.result import (
    BLOCKED,
    FAILED,
    FAILURES,
    INHERITED,
    NOT_APPLICABLE,
    NOT_PROVIDED,
    PASSED,
    SKIPPED,
    XFAILED,
    Result,
    result_from_json,
)
from verify.engine.summary import summary
from verify.engine.supervisor import IMPORTS
from verify.engine.written import write_files
from verify.groups import GROUPS, PRELOADED, on_processes, registered
from verify.page.command import make_page
from verify.target.fingerprint import identity
from verify.target.models import construction
from verify.target.naming import Target
from verify.target.preload import announced
from verify.terminal import RESULT, Account, header

FOLDER = Path(__file__).parent


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


_SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    # pytest-html has an option --html as well: its name is then read, and what it means is the gate's page.
    request.add_options(parser, other_html=any(map(pluginmanager.hasplugin, ("html", "pytest_html.plugin"))))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if config.option.page_of is not None:
        own = [str(argument) for argument in config.invocation_params.args]
        return make_page([argument for argument in own if argument.startswith("-") or not _leads_to_gate(argument)])
    if config.option.list_checks:
        _list_checks()
        return 0
    if config.option.explain:
        _explain(config.option.explain)
        return 0
    return None


def _list_checks() -> None:
    checks = registered()
    width = max(len(name) for name in checks)
    group = None
    for check in checks.values():
        if check.group != group:
            group = check.group
            print(f"{group}:")
        hazard = "hazard: " if check.kind == HAZARD else ""
        print(f"  {check.name:<{width}}  {hazard}{check.property}")


def _explain(name: str) -> None:
    check = registered().get(name)
    if check is None:
        raise pytest.UsageError(f"--explain {name}: there is no such check; --list-checks names them")
    print(f"{check.name} ({check.group}, {check.kind}; on {' and '.join(check.launchers)})\n\n{check.doc}")


def _includes_gate(config: pytest.Config) -> bool:
    """Whether the paths that pytest was given lead to the checks."""
    return any(map(_leads_to_gate, config.args))


def _leads_to_gate(argument: str) -> bool:
    path = Path(os.path.abspath(argument.split("::")[0]))
    return path == FOLDER or FOLDER in path.parents or path in FOLDER.parents


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _job(options: Options[Target], config: pytest.Config) -> Torchrun | None:
    if job_world_size() is None:
        return None
    try:
        job = Torchrun(options.backend, on_abort=lambda failure: _abort(config, failure))
    except RendezvousError as error:
        raise pytest.UsageError(str(error)) from None
    mine = options.fingerprint()
    everyone = job.exchange(mine)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise pytest.UsageError(
                    f"the ranks were started with different options: {name} is {everyone[0][name]} on rank 0 "
                    f"and {value} on rank {rank}"
                )
    return job


#: For how much longer than a check may take by pytest's clock, which its process may no longer obey.
_OVERDUE = 60.0


def _journal(config: pytest.Config) -> Journal:
    """The journal of this process: in the folder that the supervisor reads, or where workers need one, in another."""
    if "WORLD_SIZE" in os.environ:
        return Journal()  # the ranks watch over each other
    if VARIABLE not in os.environ and getattr(config.option, "numprocesses", None):
        folder = tempfile.mkdtemp(prefix="sam3-video-verify-")
        os.environ[VARIABLE] = folder  # workers inherit it
        config.add_cleanup(_remove_journal)
    journal = journal_of_process()
    if not _is_worker(config):
        option = config.option
        unknown = {"version": "unknown", "commit": None, "folder": ""}
        target = {"spec": option.target, "builder": option.builder, "origin": "", "sam3": unknown, "subjects": []}
        report = str(Path(option.report).absolute()) if option.report else None
        page = str(Path(option.htmlpath).absolute()) if option.htmlpath else None
        plan = Plan("the target was imported and built", target, {}, (), Counts(), report, IMPORTS, page)
        journal.plan(plan.as_json())
    return journal


def _remove_journal() -> None:
    shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


def _plan(gate: Session, doing: str) -> Plan:
    options = gate.options
    environment = reports.environment(options.backend, None, options.profile.name, options.seed)
    report, page = (str(path.absolute()) if path else None for path in (options.report, options.page))
    patience = _SECONDS * _scale(options) + _OVERDUE
    planned = tuple(_planned(gate))
    return Plan(doing, identity(options.target), environment, planned, options.counts, report, patience, page)


#: How long one check may take on one launcher, with the profile ``quick``.
_SECONDS = 300


def _scale(options: Options[Target]) -> int:
    return max(1, options.profile.examples // 25)


def _choose_device(backend: str) -> None:
    """Let this process see no GPU, or where it is itself a rank on NCCL, compute on its own: before sam3 is imported.

    Raises:
        UsageError: where a GPU is seen that should not be.
    """
    if backend != "nccl" or "WORLD_SIZE" not in os.environ:
        gpus.hide()
        if torch.cuda.is_available():
            raise UsageError(
                "the GPUs of this machine cannot be hidden from what is judged on the CPU, for CUDA was asked before: "
                "set CUDA_VISIBLE_DEVICES to nothing"
            )
        return
    gpus.show()
    local_rank = os.environ.get("LOCAL_RANK", "")
    if local_rank.isdecimal() and int(local_rank) < gpus.count():  # what else it is, is refused with the options
        gpus.own_gpu(int(local_rank))


def _judges_here(config: pytest.Config) -> bool:
    """Whether this process judges, and alone: not under torchrun or xdist, whose ranks and workers do."""
    distributed = "WORLD_SIZE" in os.environ or _is_worker(config) or getattr(config.option, "numprocesses", None)
    return not distributed and not config.option.collectonly


def _launchers(config: pytest.Config) -> Launchers:
    """The launchers of ranks, with their server started already where the options tell that it will be needed.

    It imports what this process does, sam3 and the target, and ranks would wait for it to begin with that later.
    """
    option = config.option
    launchers = Launchers(option.backend, preload=PRELOADED, quiet=config.getoption("capture") != "no")
    target = request.located_target(option)
    if _judges_here(config) and THREADS not in (option.launcher, option.carrier) and on_processes(option.only):
        config.add_cleanup(launchers.close)  # where it comes to no checks
        with announced(target):
            launchers.prepare()
    return launchers


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # ranks share the cores; and sums of floats must not depend on how many there are
    if not _includes_gate(config):
        return
    shown = ExitStack()
    config.add_cleanup(shown.close)
    if not _is_worker(config) and os.environ.get("RANK", "0") == "0":
        shown.enter_context(shown_on_github())
    journal = _journal(config)
    interrupt.listen(journal.interrupted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what sam3 imports; pytest's own filters are not in force yet
            _choose_device(config.option.backend)
            launchers = _launchers(config)
            options = request.read_options(config.option, job_world_size())
            construction(options.target, tracker=True)
    except (UsageError, CannotShrink) as error:
        raise pytest.UsageError(str(error)) from None
    except (SystemExit, KeyboardInterrupt) as error:
        if interrupt.by_the_user(error):
            raise
        said = " ".join(str(violation_of_error(error).args[0]).split())
        raise pytest.UsageError(f"--target {config.option.target}: cannot be imported and built: {said}") from None
    job = launchers.job = _job(options, config)
    if job is not None:
        options = replace(options, seed=job.broadcast(options.seed))
        if job.rank:
            # Ranks other than 0 write no report of their own over that of rank 0.
            config.option.xmlpath = None
    config.option.htmlpath = None  # the page is the gate's, and no longer pytest-html's to write
    session = config.stash[_SESSION] = Session(options, launchers, journal=journal, shown=shown)
    if not _is_worker(config):
        journal.plan(_plan(session, "no check was made").as_json())
        config.pluginmanager.register(_Collector(session, bool(getattr(config.option, "numprocesses", None))))


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    gate = session.config.stash.get(_SESSION, None)
    if gate is not None and gate.journal.stack is not None:
        # In place of standard error: the stack that a fault is met in becomes a part of the finding.
        stack = gate.journal.stack.open("w")
        faulthandler.enable(stack)
        session.config.add_cleanup(stack.close)
    if gate is not None and gate.rank:
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    elif gate is not None and not _is_worker(session.config):
        # Not before: pytest makes what writes to the terminal when all plugins are configured.
        total = sum(plan.parts for plan in _planned(gate))
        gate.account = Account(session.config, gate.options.checks, total)
        session.config.pluginmanager.register(gate.account)


def pytest_report_header(config: pytest.Config) -> list[str]:
    gate = config.stash.get(_SESSION, None)
    return header(gate.options) if gate is not None else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a check once for each launcher and each subject; one subject alone goes without saying."""
    check: Check | None = getattr(metafunc.function, "check", None)
    gate = metafunc.config.stash.get(_SESSION, None)
    if check is None or gate is None:
        return
    parameters = [
        pytest.param(
            launcher,
            subject,
            id="-".join(filter(None, (launcher, subject.subject_name))),
            marks=pytest.mark.xdist_group("processes") if launcher == PROCESSES else (),
        )
        for launcher in check.launchers
        for subject in gate.subjects(check)
    ]
    metafunc.parametrize(("launcher", "subject"), parameters)


def _check_of(item: pytest.Item) -> Check | None:
    return getattr(getattr(item, "function", None), "check", None)


def _on_processes(item: pytest.Item) -> bool:
    return _check_of(item) is not None and item.callspec.params["launcher"] == PROCESSES  # type: ignore[attr-defined]


def _order(item: pytest.Item) -> tuple[bool, bool, int]:
    """Sorts tests before checks and keeps their order, and checks by launcher and group."""
    check = _check_of(item)
    return check is not None, _on_processes(item), GROUPS.index(check.group) if check else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gate = config.stash.get(_SESSION, None)
    if gate is None:
        return
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        check = _check_of(item)
        if check is None:
            kept.append(item)
            continue
        launcher = item.callspec.params["launcher"]  # type: ignore[attr-defined]
        selected = check.name in gate.options.checks and launcher in gate.options.launchers
        (kept if selected else dropped).append(item)
        item.add_marker(pytest.mark.timeout(_SECONDS * _scale(gate.options)))
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    # Threads first, while the server of processes imports; groups in their order, as in the report.
    items[:] = sorted(kept, key=_order)
    # Imports have left millions of objects that stay: each collection while checks are made would look through them.
    gc.collect()
    gc.freeze()
    if gate.account is not None and all(map(_check_of, items)):
        gate.account.alone()
    if _judges_here(config) and any(map(_on_processes, items)):
        with announced(gate.options.target):
            gate.launchers.prepare()


@dataclass(frozen=True)
class GateOfItem:
    """Judges the check that a pytest item stands for, and gives its outcome in pytest's terms."""

    session: Session
    item: pytest.Item

    def run(self, check: Check, launcher: str, subject: Target) -> None:
        options, session = self.session.options, self.session
        session.judging = subject
        session.journal.item = (check.name, self.item.nodeid)
        gate = Gate(
            subject,
            session.launchers,
            options.profile,
            session.known(subject),
            options.world_sizes,
            options.seed,
            options.case,
            registered(),
            session.judged,
            session.journal,
            on_case=session.account.case if session.account else None,
        )
        result = replace(gate.judge(check, launcher), subject=subject.subject_name)
        self.item.user_properties.append((RESULT, result.as_json()))
        text = result.finding.render() if result.finding else f"{result.check}: {result.reason}"
        if result.outcome == PASSED:
            return
        if result.outcome in (SKIPPED, NOT_PROVIDED, NOT_APPLICABLE, BLOCKED):
            pytest.skip(f"{result.outcome}: {result.reason}")
        if result.outcome == XFAILED or (result.outcome == INHERITED and not options.counts.bad(result)):
            _expected(result.reason)
        if check.kind == HAZARD and not options.counts.hazards:
            _expected(f"hazard: {text}")
        if result.outcome in (FAILED, INHERITED) and result.reason:
            text = f"{result.reason}\n{text}"
        pytest.fail(text, pytrace=False)


def _expected(reason: str) -> None:
    """End a check as ``pytest.xfail`` does, without its stack: that is the gate's own, and drawing it takes 0.1 s."""
    try:
        pytest.xfail(reason)
    except pytest.xfail.Exception as error:
        error.pytrace = False
        raise


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> GateOfItem:
    """The verification that this run of pytest makes."""
    return GateOfItem(request.config.stash[_SESSION], request.node)


class _Collector:
    """Gathers results from reports of items, which may come from other processes."""

    def __init__(self, session: Session, from_workers: bool) -> None:
        self.session, self.from_workers = session, from_workers

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == RESULT and isinstance(value, dict):
                    self._add(value)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Give a check its result whose worker was ended; xdist starts another worker for the rest."""
        folder = self.session.journal.folder
        if folder is None:
            return
        for page in pages(folder):
            if page.under_way is not None and page.under_way.item == crashitem:
                result = ended(page.under_way, "a worker of xdist was ended", stack_at_end(folder, page.name))
                self._add(result.as_json())
                text = result.finding.render() if result.finding else ""
                report.longrepr = f"{report.longrepr}\n{text}"

    def _add(self, result: dict[str, Any]) -> None:
        self.session.parts.append(result_from_json(result))
        self.session.journal.add(result)
        if self.session.account is not None:
            self.session.account.result(self.session.parts[-1], from_worker=self.from_workers)


def _planned(gate: Session) -> list[reports.Planned]:
    """The checks that this run makes, by subject."""
    options, planned = gate.options, []
    # Whether an entry is stale is told by a run of all its cases only.
    whole_run = options.case is None and len(options.launchers) > 1
    for check in options.checks.values():
        parts = options.parts(check)
        for subject in gate.subjects(check) if parts else ():
            known = whole_run and any(
                entry.check == check.name and not entry.avoidable for entry in gate.known(subject)
            )
            planned.append(reports.Planned(check, subject.subject_name, parts, known))
    return planned


def _conclude(gate: Session, measure: bool) -> reports.Report:
    # They import sam3, which may be a checkout's, found only after the options.
    from verify.statements import statements
    from verify.video.real import precision_of

    options = gate.options
    results, verdict, because = reports.conclude(_planned(gate), gate.parts, options.counts)
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


#: Outcomes of checks that ran, though no case of theirs passed.
_RAN = FAILURES | {XFAILED, INHERITED}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    gate = session.config.stash.get(_SESSION, None)
    if gate is None:
        return
    gate.launchers.close()
    if gate.account is not None:
        gate.account.clear()
    if _is_worker(session.config):
        return
    gate.journal.plan(_plan(gate, "the report was made, after all checks").as_json())
    # Statements are measured on the CPU, as what is said of training is judged.
    gate.report = _conclude(gate, measure=gate.rank == 0 and not gate.launchers.on_a_gpu)
    if gate.rank == 0:
        if gate.options.write_known:
            _write_known(gate, gate.options.write_known)
        gate.no_page = write_files(gate.report, gate.options.report, gate.options.page)
        publish(gate.report, gate.options.counts)
    if session.exitstatus == pytest.ExitCode.OK:
        if not gate.report.passes:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif not any(result.cases or result.outcome in _RAN for result in gate.report.results):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        elif gate.no_page:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _write_known(gate: Session, path: Path) -> None:
    """Write what failed as a file of known failures, and say so in the report's notes."""
    assert gate.report is not None  # made before
    text = known_failures_file(gate.options.target.spec, gate.parts, gate.options.counts.bad)
    if text:
        path.write_text(text, encoding="utf-8")
    said = (
        f"fill in the reasons in {path}, then gate with --known" if text else f"nothing failed: {path} is not written"
    )
    gate.report = replace(gate.report, notes=(*gate.report.notes, f"--write-known: {said}"))


def pytest_terminal_summary(config: pytest.Config) -> None:
    gate = config.stash.get(_SESSION, None)
    if gate is not None and gate.report is not None and gate.account is not None:
        gate.account.write(gate.report, gate.options.counts)
        if gate.no_page:
            gate.account.reporter.write_line(f"ERROR: {gate.no_page}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave torchrun's job when rank 0 has told all: torchrun ends it as soon as another rank leaves with a failure."""
    gate = config.stash.get(_SESSION, None)
    if gate is not None and gate.launchers.job is not None:
        if gate.report is not None:
            gate.launchers.job.broadcast(None)
        gate.launchers.job.close()


def _abort(config: pytest.Config, failure: RanksFailed) -> None:
    """Report a failure of torchrun's ranks, which nothing outlives: called on rank 0 before the job ends."""
    gate = config.stash[_SESSION]
    item = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    name = item.rpartition("::")[2].partition("[")[0]
    check = gate.options.checks.get(name)
    if check is not None:
        finding = finding_of(
            violation_of(failure),
            check=name,
            target=gate.options.target.spec,
            launcher="torchrun",
            replay=f"torchrun --nproc-per-node {os.environ['WORLD_SIZE']} -m pytest verify "
            f"{(gate.judging or gate.options.target).options()}"
            f"{' --backend nccl' if gate.launchers.on_a_gpu else ''} --only {name}",
            world_size=int(os.environ["WORLD_SIZE"]),
            place=gate.journal.under_way.place if gate.journal.under_way else None,
        )
        subject = gate.judging.subject_name if gate.judging else ""
        gate.parts.append(Result(name, check.group, check.kind, FAILED, finding=finding, subject=subject))
        text = finding.render()
    else:
        text = str(failure)
    gate.report = _conclude(gate, measure=False)  # the job is ending, on a thread of its own
    no_page = write_files(gate.report, gate.options.report, gate.options.page)
    gate.shown.enter_context(shown_on_github())  # where it is not rank 0 that is left
    publish(gate.report, gate.options.counts)
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)  # what it holds is lost when the process leaves
    lines = [text, "", *summary(gate.report, gate.options.counts), *([f"ERROR: {no_page}"] if no_page else [])]
    sys.__stderr__.write("\n".join(lines) + "\n")  # type: ignore[union-attr]
    sys.__stderr__.flush()  # type: ignore[union-attr]
    gate.shown.close()
