"""Hypothesis profiles of the gate: how many cases, and whether they are the same at every run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    name: str
    #: Cases drawn for each check on threads.
    examples: int
    #: Cases drawn for each check and world size on processes.
    process_examples: int
    #: Seconds that may be spent on making a failing case smaller.
    shrink_seconds: float
    #: Whether each run draws other cases; its seed is printed.
    randomised: bool = False


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", examples=25, process_examples=2, shrink_seconds=5),
        Profile("full", examples=200, process_examples=12, shrink_seconds=20),
        Profile("nightly", examples=1000, process_examples=40, shrink_seconds=60, randomised=True),
    )
}
