"""How far a verification has come, on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

from verify.engine.progress import Progress, in_words


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def a_run(checks: int, seconds: float, live: bool) -> list[str]:
    """What is shown of a run of checks that take so long each, of three cases each."""
    clock, shown = Clock(), list[str]()
    progress = Progress(checks, shown.append, live, clock)
    for number in range(checks):
        progress.begin(f"test_{number}")
        for _ in range(3):
            progress.case()
            clock.now += seconds / 3
        progress.end()
    return shown


def test_lines_that_stay_are_few() -> None:
    shown = a_run(100, 1.0, live=False)
    assert len(shown) == 6
    assert shown[0] == "[15/100] test_14: 45 cases so far, about 90 s left"


def test_a_line_that_is_written_over_follows_each_case() -> None:
    shown = a_run(10, 1.0, live=True)
    assert len(shown) == 30
    assert shown[0] == "[0/10] test_0: 2 cases so far"
    assert shown[-2] == "[9/10] test_9: 30 cases so far, about 10 s left"
    assert shown[-1] == "[10/10] test_9: 30 cases so far"


def test_the_time_left_is_not_told_too_early() -> None:
    assert not any("left" in line for line in a_run(4, 20.0, live=False))


def test_time_in_words() -> None:
    assert [in_words(seconds) for seconds in (0, 12, 84, 100, 605)] == ["10 s", "10 s", "80 s", "2 min", "10 min"]
