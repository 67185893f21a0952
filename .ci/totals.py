"""Counts the tests of JUnit reports, and holds every skip against the machine.

A test may be skipped where its reason names a part that this machine really lacks; those are listed and allowed. Any
other skip means that something passed by not running, and fails.

usage: totals.py REPORT...
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

# What csrc/core/cpu.cpp asks of a processor, in the words of /proc/cpuinfo.
CPU_FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}


def lacks_instructions(level: str) -> bool:
    if level == "neon":
        return platform.machine() not in ("aarch64", "arm64")
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not set(flags[1].split()) >= CPU_FLAGS[level]


def lacks_nvidia_gpu() -> bool:
    return not Path("/dev/nvidia0").exists() and not Path("/dev/dxg").exists() and shutil.which("nvidia-smi") is None


def lacks_nvcc() -> bool:
    return shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").exists()


def lacks_tensorrt() -> bool:
    # Its bindings alone are there without the libraries that they load.
    return subprocess.run([sys.executable, "-c", "import tensorrt"], check=False, capture_output=True).returncode != 0


# What a reason says is absent, and whether it is.
ABSENT: list[tuple[re.Pattern[str], Callable[..., bool]]] = [
    (re.compile(r"this processor has no (avx2|avx512|neon)\b"), lacks_instructions),
    (re.compile(r"no NVIDIA GPU\b"), lacks_nvidia_gpu),
    (re.compile(r"nvcc is not installed"), lacks_nvcc),
    (re.compile(r"TensorRT(?:'s builder)? is not installed"), lacks_tensorrt),
]


def is_absent(reason: str) -> bool:
    """Whether `reason` names a part of the machine that it really lacks."""
    for pattern, lacks in ABSENT:
        named = pattern.search(reason)
        if named:
            return lacks(*named.groups())
    return False


def reason_of(skipped: ElementTree.Element | None) -> str:
    if skipped is None:
        return "not run"
    message = skipped.get("message") or "no reason"
    return f"{message}: {skipped.text}" if message == "collection skipped" else message


def count(reports: list[str]) -> int:
    """Print the totals and return the exit status."""
    total = passed = 0
    skips: list[tuple[str, str]] = []
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            total += 1
            skipped = case.find("skipped")
            if skipped is not None or case.get("status") in ("notrun", "disabled"):
                skips.append((f"{case.get('classname')} {case.get('name')}", reason_of(skipped)))
            elif case.find("failure") is None and case.find("error") is None:
                passed += 1
    unexplained = 0
    for name, reason in skips:
        allowed = is_absent(reason)
        unexplained += not allowed
        print(f"skipped{'' if allowed else ', and may not be'}: {name}: {reason}")
    print(f"{passed} passed, {total - passed - len(skips)} failed, {len(skips)} skipped")
    if unexplained:
        print(f"{unexplained} tests were skipped though this machine lacks nothing that their reasons name")
    if not passed:
        print("no test passed: were there reports?")
    return 0 if passed and not unexplained else 1


if __name__ == "__main__":
    sys.exit(count(sys.argv[1:]))
