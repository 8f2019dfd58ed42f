"""Reports as the gate writes them, with every kind of picture, and with what a page could trip over."""

from __future__ import annotations

import copy
from typing import Any

#: What no page may take for its own.
NASTY = "<script>alert('x')</script> \"quoted\" & 'single' ünïcödé 帧 {{ 7 * 7 }} \x00\x1b[31m $x_1$ ]]> --"
SCHEDULE: dict[str, Any] = {
    "first_call": 0,
    "calls": [0, 1, 2],
    "ranks": [
        {"rank": 0, "promised": [[0, 2], [], []], "seen": [[0, 2], [], []], "answered": [0, 1, 2]},
        {"rank": 1, "promised": [[1], [], []], "seen": [[1, 2], [], []], "answered": [0, 1, 2]},
    ],
    "held": {"rank": 0, "promised": [[0, 1, 2], [0, 1, 2], [2]], "seen": [[0, 1, 2], None, [2]]},
    "difference": None,
}
LINES: dict[str, Any] = {
    "across": "step",
    "up": "loss",
    "lines": [{"name": "never stopped", "values": [3.0, 2.0, 1.0]}, {"name": "resumed", "values": [3.0, 2.0, None]}],
    "stop": 1,
    "mark": None,
}
MATRIX: dict[str, Any] = {
    "rows": ["outputs of frame 0", "outputs of frame 1"],
    "columns": ["frame 0", "frame 1"],
    "across": "gradient in the image of",
    "values": [[1.0, 0.0], [None, 2.5]],
    "wrong": [],
    "mark": "",
    "good": "each frame has gradient in its own image, and in no other",
}
BARS: dict[str, Any] = {
    "parts": [
        {"name": "backbone.trunk", "expected": 2.0, "got": 2.0, "note": "2", "wrong": False},
        {"name": "transformer.decoder", "expected": 1.0, "got": 0.0, "note": "0", "wrong": False},
    ],
    "across": "norm of the gradient",
    "expected": "frames one by one",
    "got": "the clip",
    "mark": None,
}
SEQUENCES: dict[str, Any] = {
    "first": 0,
    "of": 2,
    "ranks": [
        {"rank": 0, "issued": ["all_gather", "all_reduce"], "during": ["", ""], "of": 2},
        {"rank": 1, "issued": ["all_gather"], "during": [""], "of": 1},
    ],
    "mismatch": None,
}
#: Each kind's data without a difference, and what makes one of it.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "schedule": (
        SCHEDULE,
        {"difference": {"what": "detected", "rank": 1, "call": 0, "promised": "frame 1", "seen": "frame 2"}},
    ),
    "lines": (LINES, {"mark": {"at": 2, "line": 1, "text": "first difference"}}),
    "matrix": (MATRIX, {"wrong": [[0, 1], [1, 0]], "mark": "First difference: outputs of frame 0"}),
    "bars": (BARS, {"mark": 1}),
    "sequences": (SEQUENCES, {"mismatch": 1}),
}


def picture(kind: str, differs: bool = False, **changes: Any) -> dict[str, Any]:
    """A picture of a kind as a report has it, with a first difference or without."""
    data, difference = KINDS[kind]
    data = copy.deepcopy({**data, **(difference if differs else {})})
    return {"kind": kind, "title": f"A {kind}", "description": f"What a {kind} shows.", "data": data, **changes}


def finding(check: str, **changes: Any) -> dict[str, Any]:
    return {
        "check": check,
        "target": NASTY,
        "launcher": "threads",
        "carrier": "threads",
        "message": f"frame 0 is {NASTY}",
        "replay": f"python -m pytest verify --target '{NASTY}' --only {check} --case '{{\"frames\":2}}'",
        "world_size": 2,
        "rank": 0,
        "call": 0,
        "frame": None,
        "tensor": "a.tensor.with.a.name.that.goes.on.and.on.and.on.and.on.and.on.without.a.place.to.break",
        "expected": NASTY,
        "got": "x" * 300,
        "table": [["call", "frame"], [">0", NASTY], [" 1", "w" * 200]],
        "case": {"frames": 2, "text": NASTY},
        "details": "y" * 400 + "\n" + NASTY,
        **changes,
    }


def check(name: str, outcome: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "group": "schedule",
        "kind": "requirement",
        "subject": "",
        "outcome": outcome,
        "cases": 5,
        "seconds": 1.25,
        "reason": "",
        "blocked_by": "",
        "finding": None,
        **changes,
    }


def report(**changes: Any) -> dict[str, Any]:
    """A report with a check of every outcome, and all kinds of pictures in both states."""
    failing = [
        check(f"test_bad_{kind}", "failed", finding=finding(f"test_bad_{kind}"), pictures=[picture(kind, differs=True)])
        for kind in KINDS
    ]
    return {
        "target": {
            "spec": NASTY,
            "builder": None,
            "origin": "/a/folder/with/a/very/long/name/" + "z" * 120 + "/model.py",
            "sam3": {"version": "0.1.4", "commit": "c" * 40, "folder": "/sam3"},
            "subjects": ["Sam3ImageOnVideo:chunked"],
        },
        "environment": {"python": "3.11.7", "versions": {"torch": "2.11.0"}, "torchrun_world_size": None, "seed": 0},
        "verdict": "violates",
        "because": f"5 failed {NASTY}",
        "causes": [{"check": "test_bad_schedule", "message": NASTY, "blocks": ["test_blocked"]}],
        "notes": [NASTY],
        "statements": [NASTY],
        "checks": [
            *failing,
            check("test_good", "passed", pictures=[picture(kind) for kind in KINDS]),
            check("test_hazard", "failed", kind="hazard", finding=finding("test_hazard")),
            check("test_inherited", "inherited", reason="inherited from sam3 0.1.4", finding=finding("test_inherited")),
            check("test_known", "xfailed", reason=NASTY, finding=finding("test_known")),
            check("test_known_and_passes", "xpassed", reason=NASTY),
            check("test_blocked", "blocked", reason="rests on test_bad_schedule", blocked_by="test_bad_schedule"),
            check("test_not_provided", "not_provided", reason=NASTY),
            check("test_not_applicable", "not_applicable", reason=NASTY, subject="Sam3MultiplexDetector:batched"),
            check("test_skipped", "skipped", reason=NASTY),
            check("test_not_triggered", "not_triggered"),
            check("test_missing", "missing", reason="gave no result"),
        ],
        **changes,
    }
