"""Files of known failures that a run writes: they hold what failed, and are read once reasons are filled in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.commands import Done, Run
from tests.engine.gate import GATE, QUICK, assert_short_error
from verify.engine.check import HAZARD, REQUIREMENT
from verify.engine.finding import Finding
from verify.engine.known import Known, KnownError, read
from verify.engine.known_written import known_failures_file
from verify.engine.report import Counts
from verify.engine.result import FAILED, INHERITED, MISSING, PASSED, XPASSED, Result
from verify.groups import registered

#: Runs the gate with these options.
Gate = Callable[..., Done]
REVERSED = ("--target", "fixtures.forks.buffer:ReversedGather")


@pytest.fixture
def gate(run_forked: Run) -> Gate:
    return partial(run_forked, *GATE)


def part(check: str, outcome: str, message: str = "", launcher: str = "threads", **more: str) -> Result:
    finding = Finding(check, "mine", launcher, message, "replay") if message else None
    kind = more.get("kind", REQUIREMENT)
    return Result(check, "schedule", kind, outcome, 3, 1.0, finding, more.get("reason", ""), more.get("subject", ""))


def entries(folder: Path, *parts: Result, counts: Counts | None = None) -> tuple[Known, ...]:
    """What is read of the file that is written of some parts, once its reasons are filled in."""
    text = known_failures_file("mine", parts, (counts or Counts()).bad)
    path = folder / "known.toml"
    path.write_text(text.replace('reason = ""', 'reason = "it is so"'))
    return read(path, registered()).entries


@pytest.mark.parametrize(
    "message",
    [
        "the answer for frame 3 is not that frame's own detection",
        'quotes " and \\ and \n a new line, \x7f \x01, ünïcödé 🙂 and (brackets] * + ? $ ^ | {2}',
        "relative error 3.5e-05 at -1.25 and 1e9",
        "x" * 5000,
    ],
)
def test_an_entry_explains_what_it_was_written_of(message: str, tmp_path: Path) -> None:
    finding = part("test_coverage", FAILED, message)
    (entry,) = entries(tmp_path, finding)
    assert finding.finding is not None
    assert (entry.check, entry.condition) == ("test_coverage", {})
    assert entry.explains(finding.finding.render())
    assert not entry.explains("another failure")


def test_numbers_may_be_others(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, part("test_coverage", FAILED, "frame 3 lies 1.5e-05 off, at -2"))
    assert entry.explains("frame 12 lies 0.25 off, at 7")
    assert not entry.explains("frame x lies 0.25 off, at 7")


def test_what_fails_on_each_launcher_in_its_own_words_is_one_entry(tmp_path: Path) -> None:
    (entry,) = entries(
        tmp_path, part("test_coverage", FAILED, "wrong"), part("test_coverage", FAILED, "hangs", launcher="gloo")
    )
    assert entry.explains("wrong")
    assert entry.explains("hangs")
    assert entry.condition == {}


def test_what_fails_on_processes_alone_says_so(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, part("test_coverage", PASSED), part("test_coverage", FAILED, "hangs", launcher="gloo"))
    assert entry.condition == {"launcher": ("processes",)}


def test_each_subject_has_an_entry_of_its_own(tmp_path: Path) -> None:
    found = entries(
        tmp_path,
        part("test_coverage", FAILED, "wrong", subject="A:chunked"),
        part("test_coverage", FAILED, "wrong", subject="A:batched"),
    )
    assert [entry.subject for entry in found] == ["A:chunked", "A:batched"]


def test_only_failures_that_count_are_written(tmp_path: Path) -> None:
    hazard = part("test_prompt_of_each_frame", FAILED, "wrong", kind=HAZARD)
    inherited = part("test_coverage", INHERITED, "wrong", reason="inherited from sam3 9: so")
    for without in (part("test_coverage", MISSING), part("test_coverage", XPASSED), hazard, inherited):
        assert known_failures_file("mine", [without], Counts().bad) == ""
    assert len(entries(tmp_path, hazard, inherited, counts=Counts(hazards=True, inherited=True))) == 2


def test_an_entry_without_its_reason_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(known_failures_file("mine", [part("test_coverage", FAILED, "wrong")], Counts().bad))
    line = 1 + path.read_text().splitlines().index("[[known]]")
    with pytest.raises(KnownError, match=rf"entry 1 \(line {line}\): needs a reason: say why test_coverage fails"):
        read(path, registered())


def test_a_run_is_let_pass_by_what_it_has_written(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    run = (*REVERSED, "--only", "test_coverage,test_share_of_work")
    first = gate(*run, "--write-known", str(path))
    assert first.status == pytest.ExitCode.TESTS_FAILED
    assert f"fill in the reasons in {path}" in first.out
    assert_short_error(gate(*run, "--known", str(path)), "needs a reason")
    path.write_text(path.read_text().replace('reason = ""', 'reason = "gathered in reverse"'))
    second = gate(*run, "--known", str(path))
    assert second.status == pytest.ExitCode.OK, second.out
    assert "xfailed: test_coverage: gathered in reverse" in second.out


def test_nothing_is_written_where_nothing_failed(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    done = gate(*QUICK, "--write-known", str(path))
    assert done.status == pytest.ExitCode.OK
    assert "nothing failed" in done.out
    assert not path.exists()


def test_files_that_cannot_be_written(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("# mine\n")
    assert_short_error(gate(*QUICK, "--write-known", str(path)), "the file is there already; --force")
    assert path.read_text() == "# mine\n"
    assert_short_error(gate(*QUICK, "--write-known", str(tmp_path)), "is a folder")
    assert_short_error(gate(*QUICK, "--write-known", str(tmp_path / "none" / "k.toml")), "there is no folder")
    assert_short_error(gate(*QUICK, "--force"), "name the file")


def test_a_file_is_written_over_where_that_is_said(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text("# mine\n")
    gate(*REVERSED, *QUICK, "--write-known", str(path), "--force")
    assert 'check = "test_coverage"' in path.read_text()
