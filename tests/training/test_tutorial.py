"""docs/tutorial.md: from nothing to a face in one command, for both families; and its commands are the script's."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

import unils_sdk as unils

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "examples" / "training" / "from_nothing.sh"
TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("config", ["tiny", "published_tiny"])
def test_one_command_leads_from_nothing_to_motion(config: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"HOURS": "0.03", "STEPS": "12", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        ["sh", str(SCRIPT), config, str(out)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]

    evaluation = json.loads((out / "report" / "eval.json").read_text())
    assert evaluation["family"] == ("published" if config.startswith("published") else "stream")
    assert evaluation["split"] == "test"
    assert evaluation["minutes"] > 3
    report = (out / "report" / "eval.md").read_text()
    for column in ("S-LVE", "S-FDD", "L-FDD", "L-PDD", "F-FID"):
        assert column in report

    info = unils.Model.load(out / "bundle").info
    assert info.provenance["configuration"]["family"] == evaluation["family"]
    with np.load(out / "face.npz") as face:
        motion = face["values"]
    truth = np.load(out / "corpus" / "t000000a" / "motion.npz")["motion"]
    assert motion.shape == truth.shape
    assert np.isfinite(motion).all()
    assert motion.std(axis=0).max() > 0.005, "the face does not move"


def commands(text: str) -> list[list[str]]:
    """The lines that run this project's programs, without comments, as words."""
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [shlex.split(line) for line in lines if re.match(r"(unils|unils-train) ", line)]


def test_the_tutorial_shows_what_the_script_runs() -> None:
    script = (
        SCRIPT.read_text()
        .replace('unils-train "$stage"', "unils-train STAGE")
        .replace(' ${STEPS:+--steps "$STEPS"}', "")
    )
    for name, value in (("$out", "out"), ("$config", "tiny"), ("$hours", "0.2")):
        script = script.replace(f'"{name}"', value).replace(name, value)
    expected: list[list[str]] = []
    for command in commands(script.replace('"', "")):
        stages = ("codec", "prior", "dialogue") if "STAGE" in command else ("",)
        expected += [[stage if word == "STAGE" else word for word in command] for stage in stages]
    assert len(expected) == 8
    assert commands(TUTORIAL.read_text()) == expected
