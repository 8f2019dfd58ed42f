"""Where findings say that the code lies: on the line of the ``def``, and nowhere where there is none."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.forks.buffer import ReversedGather
from tests.judging import CHECKS, SEEDED
from verify.engine.aftermath import ended
from verify.engine.check import Check
from verify.engine.finding import Finding, Violation
from verify.engine.journal import Journal, UnderWay, pages
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.place import Place, place_at, place_from_json, place_of, place_of_method
from verify.engine.result import FAILED, Result, result_from_json
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]


def _line(text: str, path: str = __file__) -> int:
    """The number of the first line that begins so."""
    lines = Path(path).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def _quietly(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def _plain() -> None: ...


@torch.no_grad()
@_quietly
def _decorated(
    first: int,
    second: int,
) -> None: ...


class _Base:
    def method(self) -> None: ...


@functools.total_ordering
class _Child(_Base):
    @functools.wraps(_Base.method)
    def method(self) -> None: ...

    def __lt__(self, other: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("code", "text", "what"),
    [
        (_plain, "def _plain(", "_plain"),
        (_decorated, "def _decorated(", "_decorated"),
        (functools.partial(functools.partial(_plain)), "def _plain(", "_plain"),
        (_Base().method, "def method(", "_Base.method"),
        (_Child, "class _Child(", "_Child"),
    ],
)
def test_a_place_is_the_line_of_the_definition_behind_decorators(code: Any, text: str, what: str) -> None:
    assert place_of(code) == Place(str(Path(__file__).absolute()), _line(text), what)


def test_an_override_that_says_it_wraps_its_base_is_a_place_of_its_own() -> None:
    place = place_of(_Child.method)
    assert place is not None
    assert (place.what, place.line) == ("_Child.method", _line("class _Child(") + 2)


def test_a_method_of_another_packages_class_is_placed_at_the_class_that_has_it() -> None:
    class Own(torch.nn.Linear):
        def extra_repr(self) -> str:
            return "own"

    class Further(Own): ...

    forward, further = place_of_method(Own, "forward"), place_of_method(Further, "extra_repr")
    assert forward is not None
    assert (forward.line, forward.what.split(".")[-1]) == (_line("class Own("), "Own")
    assert further is not None
    assert further.line == _line("class Own(") + 1


def test_there_is_no_place_where_there_is_no_line(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    exec(compile("def made(): ...", "<generated>", "exec"), made)
    gone = tmp_path / "gone.py"
    exec(compile("def gone(): ...", str(gone), "exec"), made)
    for code in (made["made"], made["gone"], math.sin, len, dict, torch.Tensor.add, 3):
        assert place_of(code) is None, code
    assert place_at(__file__, 10**6, "past the end") is None
    assert place_at(__file__, None, "unknown") is None
    assert place_at(str(tmp_path), 1, "a folder") is None


def test_a_finding_says_its_place_and_brings_it_along() -> None:
    place = Place("/fork/a.py", 3, "A.forward")
    finding = Finding("test_coverage", "sam3", "threads", "wrong", "python …", rank=1, place=place)
    lines = finding.render().splitlines()
    assert lines[lines.index("  where     rank 1") + 1] == "  code      /fork/a.py:3 (A.forward)"
    result = Result("test_coverage", "schedule", "requirement", FAILED, finding=finding)
    assert result_from_json(json.loads(json.dumps(result.as_json()))) == result
    before = result.as_json()
    del before["finding"]["place"]  # as an earlier version wrote it
    assert result_from_json(before) == replace(result, finding=replace(finding, place=None))
    assert place_from_json(None) is None


def test_what_ends_the_process_has_the_place_of_its_check(tmp_path: Path) -> None:
    place = Place("/fork/a.py", 3, "A.forward")
    Journal(tmp_path).begin(UnderWay("a case of it was run", "test_coverage", place=place))
    (page,) = pages(tmp_path)
    assert page.under_way is not None
    finding = ended(page.under_way, "the process was ended").finding
    assert finding is not None
    assert finding.place == place


def _judged(check: Check, target: str, launchers: Launchers) -> Finding:
    result = Gate(Target(target), launchers, SEEDED).judge(check, check.launchers[0])
    assert result.outcome == FAILED, result
    assert result.finding is not None
    return result.finding


def test_a_wrong_buffer_is_placed_at_its_method(launchers: Launchers) -> None:
    finding = _judged(CHECKS["test_coverage"], "fixtures.forks.buffer:ReversedGather", launchers)
    assert finding.place == place_of(ReversedGather.forward_video_grounding_multigpu)
    assert finding.place is not None
    assert finding.place.what.endswith("forward_video_grounding_multigpu")


def _raises(_: Target) -> Place | None:
    raise RuntimeError("a hook that raises")


def _exits(_: Target) -> Place | None:
    raise SystemExit(0)


@pytest.mark.parametrize("hook", [None, _raises, _exits, lambda _: None])
def test_a_hook_that_fails_leaves_the_finding_without_a_place(launchers: Launchers, hook: Any) -> None:
    check = replace(CHECKS["test_coverage"], place_of_code=hook)
    assert _judged(check, "fixtures.forks.buffer:ReversedGather", launchers).place is None


def test_a_violation_that_names_a_place_goes_before_the_check(launchers: Launchers) -> None:
    place = Place("/fork/other.py", 7, "other")

    def body(case: Any, observe: Any, target: Any) -> None:
        raise Violation("wrong", place=place)

    check = replace(CHECKS["test_coverage"], body=body)
    assert _judged(check, "fixtures.forks.buffer:ReversedGather", launchers).place == place


def test_every_check_tells_where_its_code_lies() -> None:
    target = Target("posted")
    for check in CHECKS.values():
        assert check.place_of_code is not None, check.name
        place = check.place_of_code(target)
        assert place is not None, check.name
        assert Path(place.path).is_file()
