"""Backend `cuda` through Python, plug-in and pools included, on a CUDA device that the host plays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.timeout(900)
def test_what_is_for_a_card_holds_on_one_that_the_host_plays(native_target: Callable[[str], Path]) -> None:
    # In a process of its own: libunils looks for the plug-in once.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent / "test_gpu.py")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "UNILS_CUDA_PLUGIN": str(native_target("cuda_on_host_plugin"))},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    totals = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", totals), totals  # none skipped
