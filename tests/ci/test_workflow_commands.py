"""Commands to GitHub's runner say what they were given, and nothing that is quoted in them is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ci.reports import HOSTILE
from tests.ci.runner import commands_in, read_command
from verify.ci.workflow_commands import command, printable, taken_for_text


@given(st.text(), st.text(min_size=1))
def test_what_is_said_is_what_is_read(message: str, title: str) -> None:
    line = command("error", message, {"file": "a/b,c:d.py", "line": 3, "title": title})
    read = read_command(line)
    assert read is not None, line
    expected = {"file": "a/b,c:d.py", "line": "3", "title": printable(title).strip()}
    stripped = {key: value.strip() for key, value in read.properties.items()}
    assert (read.name, read.message, stripped) == ("error", printable(message), expected), line


@given(st.text())
def test_a_command_is_one_line(message: str) -> None:
    assert len(command("error", message, {"title": message}).splitlines()) == 1


@pytest.mark.parametrize("said", HOSTILE)
def test_a_target_cannot_say_a_second_command(said: str) -> None:
    (only,) = commands_in(command("error", said, {"title": said}))
    assert only.message == printable(said)
    assert set(only.properties) == {"title"}


@pytest.mark.parametrize("said", HOSTILE)
def test_what_is_printed_meanwhile_is_text(said: str) -> None:
    printed: list[str] = ["::notice::before\n"]
    with taken_for_text(printed.append):
        printed += [said, "::stop-commands::mine\n::mine::\n", "a line without its end"]
    printed.append("::notice::after\n")
    assert [each.message for each in commands_in("".join(printed))] == ["before", "after"]


def test_the_word_that_ends_it_is_another_each_time() -> None:
    printed: list[str] = []
    for _ in range(2):
        with taken_for_text(printed.append):
            pass
    assert len({line for line in printed if "stop-commands" in line}) == 2


def test_properties_without_a_value_are_left_out() -> None:
    assert command("notice", "m", {"file": None, "title": ""}) == "::notice::m"
