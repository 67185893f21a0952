"""benchmarks/compare_pytorch.py times the same work twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_pytorch.py"


def test_both_engines_make_the_same_frames_while_they_are_timed(tiny_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("compare_pytorch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    figures = script.compare(tiny_path, frames=script.WARM_UP_FRAMES + 5)
    assert figures["frames"] == 5
    assert figures["equal_frames"] >= script.WARM_UP_FRAMES
    assert figures["ratio"] == pytest.approx(figures["pytorch_us"] / figures["native_us"])
