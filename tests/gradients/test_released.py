"""A checkout's one-frame forward against the installed sam3, under the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests import checkout
from tests.engine.gate import judged_by

pytestmark = pytest.mark.xdist_group("checkout")
#: The image backbone's MLP, doing something more to its result.
CHANGED_MLP = """
class ChangedMlp(Mlp):
    def forward(self, x):
        x = super().forward(x)
        return {result}


Mlp = ChangedMlp
"""


def judged(folder: Path) -> dict[str, Any]:
    return judged_by("test_released_sam3", folder / "report.json", "--target", str(folder))


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("1.01 * x", r"pred_\w+ of a frame alone is not what sam3 \S+ computes under the same weights"),
        ("0.9 * x + 0.1 * x.detach()", r"the gradient in backbone\.\S+ .*is not what sam3 \S+ computes"),
    ],
    ids=["other values", "part of the gradient lost"],
)
def test_a_changed_detector_is_told(result: str, says: str, tmp_path: Path) -> None:
    checkout.write_plain(tmp_path, vitdet=CHANGED_MLP.format(result=result))
    check = judged(tmp_path)
    assert check["outcome"] == "failed", check
    assert re.search(says, check["finding"]["message"]), check["finding"]


def test_other_parameters_are_not_compared(tmp_path: Path) -> None:
    more = "1.0 * x\n\n    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
    more += "        self.gain = torch.nn.Parameter(torch.ones(1))"
    checkout.write_plain(tmp_path, vitdet=CHANGED_MLP.format(result=more))
    check = judged(tmp_path)
    assert check["outcome"] == "skipped", check
    assert "mlp.gain is not in the released model" in check["reason"]
