"""Checkpoints of one run, averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unils_training.cli import main
from unils_training.stages.averaging import average


def write(path: Path, value: float, step: int, size: int = 2) -> Path:
    result = {"weight": torch.full((size,), value), "steps": torch.tensor(step)}
    torch.save({"result": result, "step": step, "facts": {"corpus": "c"}, "config": {}}, path)
    return path


def test_weights_are_averaged_by_their_shares_and_the_facts_say_so(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.pt", 1.0, 10), write(tmp_path / "b.pt", 5.0, 20)]
    assert main(["average", *map(str, paths), "--shares", "1,3", "-o", str(tmp_path / "c.pt")]) == 0
    made = torch.load(tmp_path / "c.pt", weights_only=True)
    assert made["result"]["weight"].tolist() == [4.0, 4.0]
    assert made["result"]["steps"] == 20
    assert made["step"] == 20
    assert made["facts"] == {"corpus": "c", "averaged": [{"step": 10, "share": 0.25}, {"step": 20, "share": 0.75}]}


def test_what_cannot_be_averaged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.pt", 1.0, 10), write(tmp_path / "b.pt", 5.0, 20, size=3)
    with pytest.raises(ValueError, match="different sizes"):
        average([a, b], [1.0, 1.0], tmp_path / "c.pt")
    with pytest.raises(ValueError, match="positive share"):
        average([a, a], [1.0, 0.0], tmp_path / "c.pt")
    torch.save({"module": {}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="for resuming"):
        average([tmp_path / "last.pt", a], [1.0, 1.0], tmp_path / "c.pt")
    assert main(["average", str(a), str(tmp_path / "no.pt"), "--shares", "1,1", "-o", str(tmp_path / "c.pt")]) == 2
    assert "no.pt is missing" in capsys.readouterr().err
    assert not (tmp_path / "c.pt").exists()
