"""The installed library serves C and CMake without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import unils_sdk as unils
from conversation import voices
from test_frames import write_audio

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "c"
