"""The mutation score: what is edited, how an edit is judged, and what is made of it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.forked import Ended, in_forks
from benchmarks.mutation import judging, tensors
from benchmarks.mutation.bodies import BODIES
from benchmarks.mutation.judging import (
    DOES_NOT_RUN,
    KILLED,
    NO_LONGER_MADE,
    NO_TENSOR,
    NOT_REACHED,
    REFUSED,
    SURVIVED,
    Timed,
    judge,
    order,
)
from benchmarks.mutation.mutants import Mutant, NoSuchFunction, functions_in, mutants
from benchmarks.mutation.operators import operators
from benchmarks.mutation.reached import lines_run
from benchmarks.mutation.report import Earlier, Measurement, NoMeasurement, lines, read, write
from benchmarks.mutation.score import score, score_of
from benchmarks.mutation.source import put_in_place, text_of
from tests.commands import Run
from verify.engine.check import HAZARD, REQUIREMENT, Check
from verify.engine.result import FAILED, NOT_PROVIDED, PASSED, Result

CHUNKED = BODIES["chunked"]
MODULE = CHUNKED.regions[0].module
#: Checks that need not be timed anew: the first two, and the one that the installed sam3 fails.
TIMED = (
    Timed("test_answers_at_all", REQUIREMENT, PASSED, "", 0.1),
    Timed("test_coverage", REQUIREMENT, PASSED, "", 0.2),
    Timed("test_features_on_request", REQUIREMENT, FAILED, "", 0.1),
)


def edits(operator: str, code: str) -> list[str]:
    """What an operator makes of the function ``f`` with this body: the lines that it puts in."""
    text = "def f(x, frame_idx, num_frames):\n" + "".join(f"    {line}\n" for line in code.splitlines())
    named = [named for named in operators() if named.name == operator]
    assert named, operator
    made = mutants("module", text, "f", named)
    return [line[2:] for mutant in made for line in mutant.diff.splitlines() if line.startswith("+")]


# What is edited


@pytest.mark.parametrize(
    ("operator", "code", "expected"),
    [
        ("ReplaceComparisonOperator_Lt_LtE", "return x < 1", ["return x <= 1"]),
        ("ReplaceBinaryOperator_Sub_Add", "return x - 1", ["return x + 1"]),
        ("NumberReplacer", "return 3", ["return 4", "return 2"]),
        ("ReplaceContinueWithBreak", "for y in x:\n    continue", ["break"]),
        ("ReplaceAndWithOr", "return x and x", ["return x or x"]),
        ("ReplaceUnaryOperator_Delete_Not", "return not x", ["return  x"]),
        ("ReplaceFalseWithTrue", "return False", ["return True"]),
        ("dropped_statement", "x.wait()", ["pass"]),
        ("dropped_statement", "assert x", ["pass"]),
        ("dropped_statement", "x = x.contiguous()", ["pass"]),
        ("dropped_statement", "y = x", []),  # nothing would be left that has the name
        ("dropped_statement", "x[0] = 1", ["pass"]),
        ("dropped_statement", "if x:\n    return 1\nreturn 2", ["pass"]),
        ("dropped_statement", "import os", []),
        ("dropped_call", "return x.contiguous()", ["return x"]),
        ("dropped_call", "return min(x, 2)", ["return (x)", "return (2)"]),
        ("dropped_call", "return x.a.b(1).c()", ["return x.a.c()", "return x.a.b(1)"]),
        ("dropped_call", "return torch.zeros(2)", []),
        ("exchanged_arguments", "return g(x, 2, a=3, b=4)", ["return g(2, x, a=3, b=4)", "return g(x, 2, a=4, b=3)"]),
        ("exchanged_arguments", "return g(x, x)", []),
        ("exchanged_names", "return frame_idx", ["return num_frames"]),
        ("exchanged_names", "begin, end = x\nreturn begin", ["return end"]),
        ("exchanged_names", "begin = x\nreturn begin", []),
        ("exchanged_names", "return g(frame_idx=x)", []),
        ("detached_tensor", "y = x\nreturn y", ["y = mutant_detached((x))", "return mutant_detached((y))"]),
        (
            "rounded_tensor",
            "return {'a': x}",
            ["return mutant_rounded(({'a': x}))", "return {'a': mutant_rounded((x))}"],
        ),
        ("rounded_tensor", "y = 'text'", []),
    ],
)
def test_operators_edit_what_they_say(operator: str, code: str, expected: list[str]) -> None:
    assert edits(operator, code) == expected


def test_types_are_not_edited() -> None:
    text = "def f(x: int | None, y: str | None = None) -> int | None:\n    z: int | None = x\n    return z\n"
    assert not [mutant for mutant in mutants("m", text, "f", operators()) if "Binary" in mutant.operator]


def test_mutants_of_a_method_keep_the_rest_of_the_module() -> None:
    text = (
        'class A:\n    def f(self):\n        """Text.\n\n        More."""\n        return 1 + 2\n\n'
        "    def g(self):\n        return 5\n"
    )
    found = list(mutants("m", text, "A.f", operators()))
    assert found
    for mutant in found:
        assert "        return 5\n" in mutant.text
        assert len(mutant.text.splitlines()) == len(text.splitlines())
        assert mutant.line == 6
        assert mutant.name.startswith("f:6:")
    assert len({mutant.text for mutant in found}) == len({mutant.name for mutant in found}) == len(found)
    assert text not in {mutant.text for mutant in found}


@pytest.mark.parametrize("name", ["A.h", "f", "A"])
def test_a_function_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(NoSuchFunction, match=name):
        list(mutants("m", "class A:\n    def f(self): return 1\n", name, operators()))


def test_functions_of_a_module_are_found() -> None:
    assert functions_in("def f(): pass\nclass A:\n    x = 1\n    def g(self): pass\n") == ("f", "A.g")


@pytest.mark.parametrize("body", BODIES)
def test_all_that_a_body_names_is_there(body: str) -> None:
    for region in BODIES[body].regions:
        text = text_of(region.module)
        assert {*region.functions} <= {*functions_in(text)}
        assert judging.checks_of(region.groups) >= {*region.probes}


def test_edits_of_tensors_reach_into_containers() -> None:
    value = {"a": [torch.tensor(1.001, requires_grad=True)], "b": (2, torch.tensor(3))}
    assert not tensors.detached(value)["a"][0].requires_grad
    assert tensors.rounded(value)["a"][0] == 1.0
    untouched = {"b": (2, torch.tensor(3))}
    assert tensors.rounded(untouched) is untouched
    assert tensors.detached(untouched) is untouched


# How it is judged


def in_sam3(before: str, after: str, operator: str = "by_hand") -> Mutant:
    text = text_of(MODULE)
    assert text.count(before) == 1, text.count(before)
    return Mutant("by hand", MODULE, operator, 1, (1, 1), "", text.replace(before, after))


def judged(mutant: Mutant, seconds: float = 100, every_check: bool = False) -> Ended:  # type: ignore[type-arg]
    call = partial(_judge, every_check=every_check)
    (ended,) = in_forks(call, [mutant], 1, seconds)
    return ended


def _judge(mutant: Mutant, every_check: bool) -> judging.Judged:
    return judge(CHUNKED, mutant, TIMED, every_check)


SAVED = "frame_idx_to_save = frame_idx_begin + rank"


@pytest.mark.parametrize(
    ("before", "after", "outcome", "killers"),
    [
        (SAVED, "frame_idx_to_save = frame_idx_begin + self.world_size - 1 - rank", KILLED, ("test_coverage",)),
        (SAVED, "frame_idx_to_save = rank + frame_idx_begin", SURVIVED, ()),
        (SAVED, "frame_idx_to_save = = rank", DOES_NOT_RUN, ()),
        ("class Sam3ImageOnVideoMultiGPU(Sam3Image):", "class Sam3ImageOnVideoMultiGPU(Nothing):", DOES_NOT_RUN, ()),
        ('self.rank = int(os.getenv("RANK", "0"))', 'self.rank = int("RANK")', REFUSED, ()),
    ],
    ids=["reversed", "equal", "no syntax", "no import", "no model"],
)
def test_mutants_end_as_they_should(before: str, after: str, outcome: str, killers: tuple[str, ...]) -> None:
    ended = judged(in_sam3(before, after))
    assert ended.given is not None
    assert (ended.given.outcome, ended.given.killers) == (outcome, killers), ended.given.message


def test_an_edit_of_tensors_where_there_are_none_is_no_mutant() -> None:
    edit = in_sam3(SAVED, "frame_idx_to_save = mutant_rounded(frame_idx_begin + rank)", "rounded_tensor")
    ended = judged(edit)
    assert ended.given is not None
    assert ended.given.outcome == NO_TENSOR


def test_a_mutant_that_does_not_come_to_an_end_is_ended() -> None:
    started = time.monotonic()
    ended = judged(in_sam3(SAVED, f"{SAVED}\n            while True: pass"), seconds=3)
    assert ended.timed_out
    assert ended.given is None
    assert time.monotonic() - started < 10


def test_a_process_that_ends_itself_is_no_time_out() -> None:
    (ended,) = in_forks(os._exit, [0], 1, 60)
    assert not ended.timed_out
    assert ended.given is None


def test_forks_run_beside_each_other_and_each_gives_its_own() -> None:
    ended = list(in_forks(abs, [-1, -2, -3, -4, -5], 2, 60))
    assert sorted(one.given for one in ended if one.given is not None) == [1, 2, 3, 4, 5]
    assert all(one.given == -one.asked for one in ended)


def test_a_mutant_is_in_place_for_all_importers_and_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "class A:\n    def f(self):\n        return 1\n\n\ndef g():\n    return A().f()\n"
    (tmp_path / "mutated_here.py").write_text(text)
    (tmp_path / "importing_here.py").write_text("from mutated_here import A as B, g\n")
    importing = importlib.import_module("importing_here")
    put_in_place("mutated_here", text.replace("return 1", "return 2"))
    try:
        assert (importing.B().f(), importing.g(), sys.modules["mutated_here"].A().f()) == (2, 2, 2)
        assert "return 2" in inspect.getsource(importing.B.f)
        assert (tmp_path / "mutated_here.py").read_text() == text
    finally:
        for name in ("mutated_here", "importing_here"):
            del sys.modules[name]


def test_checks_that_fail_the_unedited_body_are_not_asked_and_the_cheapest_are_first() -> None:
    hazard = Timed("test_resumed_scan", HAZARD, PASSED, "", 0.0)
    timed = (hazard, *reversed(TIMED))
    asked = [one.check for one in order(timed, ("schedule",))]
    assert asked == ["test_answers_at_all", "test_coverage", "test_resumed_scan"]
    assert order(timed, ("schedule",), ("test_coverage",))[0].check == "test_coverage"
    assert order(timed, ("builder",)) == ()


def test_lines_that_are_run_are_found_on_any_thread_and_not_those_of_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "watched_here.py").write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    watched = importlib.import_module("watched_here")
    try:
        with lines_run(["watched_here"]) as lines:
            on_a_thread = threading.Thread(target=watched.f, args=(1,))
            on_a_thread.start()
            on_a_thread.join()
        assert lines == {"watched_here": [2, 3]}
        with lines_run(["watched_here"]) as lines:
            pass
        assert lines == {"watched_here": []}
    finally:
        del sys.modules["watched_here"]


def test_the_statement_of_an_edit_is_the_innermost_and_the_body_for_what_is_in_the_head() -> None:
    code = """
def f(
    x=1,
):
    if x:
        return g(
            2,
        )
    return 3
"""
    statements = {mutant.line: mutant.statement for mutant in mutants("m", code, "f", operators())}
    assert {line: statements[line] for line in (3, 7, 9)} == {3: (5, 9), 7: (6, 8), 9: (9, 9)}


@pytest.mark.parametrize(("line", "outcome"), [(1, KILLED), (2, NOT_REACHED)])
def test_checks_that_do_not_come_to_an_edit_are_not_asked(line: int, outcome: str) -> None:
    edit = in_sam3(SAVED, "frame_idx_to_save = frame_idx_begin + self.world_size - 1 - rank")
    timed = tuple(replace(one, lines={MODULE: [line]}) for one in TIMED)
    (ended,) = in_forks(partial(judge, CHUNKED, timed=timed, every_check=False), [edit], 1, 100)
    assert ended.given is not None
    assert ended.given.outcome == outcome


def test_a_check_that_can_no_longer_be_made_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = judging._Judge.result

    def not_provided(self: judging._Judge, check: Check) -> Result:
        return replace(made(self, check), outcome=NOT_PROVIDED, reason="it has none")

    monkeypatch.setattr(judging._Judge, "result", not_provided)
    ended = judged(in_sam3(SAVED, "frame_idx_to_save = rank + frame_idx_begin"))
    assert ended.given is not None
    assert (ended.given.outcome, ended.given.message) == (NO_LONGER_MADE, "it has none")
    assert score_of([NO_LONGER_MADE]).killed == 0


def test_a_check_of_the_unedited_body_says_where_it_comes() -> None:
    (ended,) = in_forks(partial(judging.baseline, CHUNKED), ["test_coverage"], 1, 100)
    assert ended.given is not None
    assert ended.given.outcome == PASSED
    saved = 1 + text_of(MODULE).splitlines().index(" " * 12 + SAVED)
    assert saved in (ended.given.lines or {})[MODULE]


# What is made of it


def test_score_and_its_interval() -> None:
    some = score(8, 10)
    assert some.share == 0.8
    assert (round(some.low, 3), round(some.high, 3)) == (0.490, 0.943)  # Wilson's, as published for 8 of 10
    none, all_of_them = score(0, 10), score(10, 10)
    assert (none.low, round(none.high, 3)) == (0.0, 0.278)
    assert (round(all_of_them.low, 3), all_of_them.high) == (0.722, 1.0)
    empty = score(0, 0)
    assert (empty.share, empty.low, empty.high) == (None, 0.0, 1.0)


@pytest.mark.parametrize(("killed", "of"), [(2, 1), (-1, 3), (1, 0)])
def test_impossible_scores_are_refused(killed: int, of: int) -> None:
    with pytest.raises(ValueError, match="cannot have been killed"):
        score(killed, of)


def test_neither_time_outs_nor_hazards_count_as_killed() -> None:
    assert score_of([REFUSED]).killed == 1
    outcomes = [KILLED, judging.TIMED_OUT, judging.HAZARDOUS, SURVIVED, DOES_NOT_RUN, judging.ENDED, NO_TENSOR]
    assert (score_of(outcomes).killed, score_of(outcomes).mutants) == (3, 6)
    assert (score_of(outcomes, False).killed, score_of(outcomes, False).mutants) == (2, 5)


def test_the_table_says_what_alone_killed_and_shows_survivors() -> None:
    mutant = Mutant("f:1:2:Operator", "module", "Operator", 1, (1, 1), "- old\n+ new", "")
    pairs = (
        (mutant, judging.Judged(SURVIVED)),
        (replace(mutant, name="other"), judging.Judged(KILLED, ("test_coverage",))),
        (replace(mutant, name="third"), judging.Judged(KILLED, ("test_coverage", "test_answers_at_all"))),
    )
    text = "\n".join(lines(Measurement("chunked", "commit", 9, 4, TIMED, pairs, True, 1.0)))
    assert "3 of 9 mutants, a sample (seed 4)" in text
    assert "2 of 3 killed: 66.7%" in text
    assert "test_features_on_request (failed)" in text
    assert any(line.split() == ["test_coverage", "2", "1"] for line in text.splitlines())
    assert "f:1:2:Operator  (module)\n    - old\n    + new" in text
    assert "other" not in text


def test_a_measurement_is_read_as_it_was_written(tmp_path: Path) -> None:
    mutant = Mutant("f:1:2:Operator", "module", "Operator", 1, (1, 1), "- old\n+ new", "text")
    pairs = ((mutant, judging.Judged(KILLED, ("test_coverage",), "says", 1.5)),)
    write(Measurement("chunked", "commit", 1, 7, TIMED, pairs, False, 1.0), tmp_path / "measured.json")
    assert read(tmp_path / "measured.json", "chunked", [mutant]) == Earlier(7, pairs)
    for body, mutants_now, says in (("data", [mutant], "measured chunked, not data"), ("chunked", [], "as it is now")):
        with pytest.raises(NoMeasurement, match=says):
            read(tmp_path / "measured.json", body, mutants_now)
    with pytest.raises(NoMeasurement, match="No such file"):
        read(tmp_path / "nothing.json", "chunked", [])
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(NoMeasurement, match="holds no measurement"):
        read(tmp_path / "text.json", "chunked", [])


@pytest.mark.xdist_group("commands")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "invalid choice: 'nothing'"),
        (("posted", "--only", "nothing"), "--only nothing: no mutant of posted is called so"),
        (("chunked", "--again", "f.json", "--sample", "2"), "leave out --only and --sample"),
        (("chunked", "--sample", "0"), "0 is not above 0"),
        (("chunked", "--json", "/no/folder/f.json"), "there is no folder /no/folder"),
    ],
)
def test_wrong_arguments_get_a_short_answer(run_forked: Run, arguments: tuple[str, ...], says: str) -> None:
    done = run_forked("benchmarks.mutation", *arguments)
    assert done.status != 0
    assert says in done.err
    assert "Traceback" not in done.out + done.err
