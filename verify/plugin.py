"""The gate inside pytest: options, selection, ranks, and the report at the end.

Runs in three places: a plain pytest; xdist's controller and workers, where the workers judge and the controller
reports; and the ranks of torchrun, where all of them judge together and rank 0 reports.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.ranks import RanksFailed
from fixtures.toy.shrink import CannotShrink
from verify import request
from verify.ci.publication import publish, shown_on_github
from verify.engine import interrupt
from verify.engine.check import HAZARD, PROCESSES, Check
from verify.engine.finding import finding_of
from verify.engine.judge import violation_of, violation_of_error
from verify.engine.known_written import known_failures_file
from verify.engine.options import UsageError, job_world_size
from verify.engine.result import FAILED, FAILURES, INHERITED, XFAILED, Result
from verify.engine.summary import summary
from verify.engine.written import write_files
from verify.groups import registered
from verify.items import Collector, GateOfItem, check_of, is_on_processes, order
from verify.page.command import make_page
from verify.session import SECONDS, SESSION, Session, conclude, is_worker, judges_here, plan_of, planned, scale
from verify.start import choose_device, job_of, journal_for, launchers_of
from verify.target.models import construction
from verify.target.preload import announced
from verify.terminal import Account, header

FOLDER = Path(__file__).parent


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


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # ranks share the cores; and sums of floats must not depend on how many there are
    if not _includes_gate(config):
        return
    shown = ExitStack()
    config.add_cleanup(shown.close)
    if not is_worker(config) and os.environ.get("RANK", "0") == "0":
        shown.enter_context(shown_on_github())
    journal = journal_for(config)
    interrupt.listen(journal.interrupted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what sam3 imports; pytest's own filters are not in force yet
            choose_device(config.option.backend)
            launchers = launchers_of(config)
            options = request.read_options(config.option, job_world_size())
            construction(options.target, tracker=True)
    except (UsageError, CannotShrink) as error:
        raise pytest.UsageError(str(error)) from None
    except (SystemExit, KeyboardInterrupt) as error:
        if interrupt.by_the_user(error):
            raise
        said = " ".join(str(violation_of_error(error).args[0]).split())
        raise pytest.UsageError(f"--target {config.option.target}: cannot be imported and built: {said}") from None
    job = launchers.job = job_of(options, lambda failure: _abort(config, failure))
    if job is not None:
        options = replace(options, seed=job.broadcast(options.seed))
        if job.rank:
            # Ranks other than 0 write no report of their own over that of rank 0.
            config.option.xmlpath = None
    config.option.htmlpath = None  # the page is the gate's, and no longer pytest-html's to write
    session = config.stash[SESSION] = Session(options, launchers, journal=journal, shown=shown)
    if not is_worker(config):
        journal.plan(plan_of(session, "no check was made").as_json())
        config.pluginmanager.register(Collector(session, bool(getattr(config.option, "numprocesses", None))))


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    gate = session.config.stash.get(SESSION, None)
    if gate is not None and gate.journal.stack is not None:
        # In place of standard error: the stack that a fault is met in becomes a part of the finding.
        stack = gate.journal.stack.open("w")
        faulthandler.enable(stack)
        session.config.add_cleanup(stack.close)
    if gate is not None and gate.rank:
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    elif gate is not None and not is_worker(session.config):
        # Not before: pytest makes what writes to the terminal when all plugins are configured.
        total = sum(plan.parts for plan in planned(gate))
        gate.account = Account(session.config, gate.options.checks, total)
        session.config.pluginmanager.register(gate.account)


def pytest_report_header(config: pytest.Config) -> list[str]:
    gate = config.stash.get(SESSION, None)
    return header(gate.options) if gate is not None else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a check once for each launcher and each subject; one subject alone goes without saying."""
    check: Check | None = getattr(metafunc.function, "check", None)
    gate = metafunc.config.stash.get(SESSION, None)
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gate = config.stash.get(SESSION, None)
    if gate is None:
        return
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        check = check_of(item)
        if check is None:
            kept.append(item)
            continue
        launcher = item.callspec.params["launcher"]  # type: ignore[attr-defined]
        selected = check.name in gate.options.checks and launcher in gate.options.launchers
        (kept if selected else dropped).append(item)
        item.add_marker(pytest.mark.timeout(SECONDS * scale(gate.options)))
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    # Threads first, while the server of processes imports; groups in their order, as in the report.
    items[:] = sorted(kept, key=order)
    # Imports have left millions of objects that stay: each collection while checks are made would look through them.
    gc.collect()
    gc.freeze()
    if gate.account is not None and all(map(check_of, items)):
        gate.account.alone()
    if judges_here(config) and any(map(is_on_processes, items)):
        with announced(gate.options.target):
            gate.launchers.prepare()


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> GateOfItem:
    """The verification that this run of pytest makes."""
    return GateOfItem(request.config.stash[SESSION], request.node)


#: Outcomes of checks that ran, though no case of theirs passed.
_RAN = FAILURES | {XFAILED, INHERITED}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    gate = session.config.stash.get(SESSION, None)
    if gate is None:
        return
    gate.launchers.close()
    if gate.account is not None:
        gate.account.clear()
    if is_worker(session.config):
        return
    gate.journal.plan(plan_of(gate, "the report was made, after all checks").as_json())
    # Statements are measured on the CPU, as what is said of training is judged.
    gate.report = conclude(gate, measure=gate.rank == 0 and not gate.launchers.on_a_gpu)
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
    gate = config.stash.get(SESSION, None)
    if gate is not None and gate.report is not None and gate.account is not None:
        gate.account.write(gate.report, gate.options.counts)
        if gate.no_page:
            gate.account.reporter.write_line(f"ERROR: {gate.no_page}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave torchrun's job when rank 0 has told all: torchrun ends it as soon as another rank leaves with a failure."""
    gate = config.stash.get(SESSION, None)
    if gate is not None and gate.launchers.job is not None:
        if gate.report is not None:
            gate.launchers.job.broadcast(None)
        gate.launchers.job.close()


def _abort(config: pytest.Config, failure: RanksFailed) -> None:
    """Report a failure of torchrun's ranks, which nothing outlives: called on rank 0 before the job ends."""
    gate = config.stash[SESSION]
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
    gate.report = conclude(gate, measure=False)  # the job is ending, on a thread of its own
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
