"""The detectors find what the simulator says that it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from unils_training.data.dataset import open_dataset
from unils_training.data.synth.corpus import generate
from unils_training.data.synth.espeak import library_path
from unils_training.evaluation.clips import Recording
from unils_training.metrics import Metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(library_path() is None, reason="libespeak-ng is not installed"),
]


def test_detectors_agree_with_the_labels_of_simulated_conversations(tmp_path: Path) -> None:
    corpus = generate(tmp_path / "corpus", seed=3, hours={"train": 0.0, "val": 0.0, "test": 0.12})
    metrics = Metrics()
    dataset = open_dataset(corpus)
    for name in dataset.splits["test"]:
        side = Recording(dataset, name)
        metrics.add(side.compare(side.motion.values.astype("float32")))
    check = metrics.result()["detectors"]
    for kind, least in (("lip_closure", 0.95), ("blink", 0.97), ("nod", 0.8), ("smile", 0.75), ("shake", 0.8)):
        assert check[kind]["truth"] >= 5
        assert check[kind]["f1"] >= least, f"{kind}: {check[kind]}"
