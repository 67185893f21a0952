"""The model card says what was measured, and only that."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from unils_training import model_card
from unils_training.metrics import Metrics, markdown_table, quality_lines
from unils_training.metrics.targets import Line

SHA = "ab" * 32


def result(look_ahead: int, ratio: float = 0.9) -> dict[str, Any]:
    """Figures of a model that misses its jaw target and meets one other."""
    empty = Metrics().result()
    for state in ("speaking", "listening"):
        empty["alive"][state] = {
            **{measure: {"head": ratio, "brows": ratio, "mouth": ratio} for measure in ("std_ratio", "speed_ratio")},
            **dict.fromkeys(("fdd", "pdd", "jdd", "frechet", "paired_frechet"), 1.5),
        }
    lines = [
        Line("lips", "jaw correlation while speaking", ">= 0.88", f"0.{80 + look_ahead}", False),
        Line("alive", "blinks a minute", "12 to 35", "20", True),
        Line("listening", "reaction F1 / with a shuffled partner", ">= 2 times", "not measured", None),
    ]
    figures = {"f1": 0.4, "f1_shuffled": 0.1, "ratio": 4.0, "ratio_low": 3.0, "ratio_high": 5.0}
    plain = json.loads(json.dumps(empty).replace("NaN", "null"))
    return {
        "look_ahead_self": look_ahead,
        **plain,
        "contingency": figures,
        "lines": [line.as_dict() for line in lines],
    }


def write_eval(folder: Path, results: list[dict[str, Any]], sha: str = SHA) -> Path:
    folder.mkdir()
    evaluation = {
        "bundle": {"path": "b", "sha256": sha},
        "corpus": {"seed": 11, "hours": {"train": 12.5, "test": 1.0}, "channels": ["jawOpen"]},
        "split": "test",
        "ids": ["c0a", "c0b"],
        "minutes": 30.0,
        "backend": "native",
        "options": {"look_ahead_other": 0, "temperature": 1.0, "top_p": 0.97, "cfg_scale": 1.5, "seed": 0},
        "results": results,
        "long_run": [{"from_minute": 0.0, "head_std_ratio": 0.93}],
    }
    (folder / "eval.json").write_text(json.dumps(evaluation))
    return folder


def write_corpus(folder: Path, seed: int = 11) -> Path:
    folder.mkdir()
    (folder / "corpus.json").write_text(json.dumps({"seed": seed, "hours": {"train": 12.5, "val": 0.0, "test": 1.0}}))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    model = {
        **{"family": "stream", "rig": "arkit", "channels": ["jawOpen"], "frame_rate": 25, "licence": "Apache-2.0"},
        "look_ahead": {"self": [0, 8], "other": [0, 8]},
        "provenance": {
            "seed": 3,
            "torch": "2.0",
            "configuration": {"run": "/home/somebody"},
            "stages": {"codec": {"step": 70, "seconds": 120.0}, "corpus": "0af3"},
        },
        "weights": {"sha256": SHA},
    }
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "weights.safetensors").write_bytes(b"x" * 2_000_000)
    return folder


def test_the_card_names_seeds_data_and_missed_targets(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    evals = [write_eval(tmp_path / "e1", [result(1), result(0)]), write_eval(tmp_path / "e2", [result(2), result(4)])]
    out = tmp_path / "MODEL_CARD.md"
    assert (
        model_card.main(["--bundle", str(bundle), "--eval", *map(str, evals), "--corpora", str(corpus), "-o", str(out)])
        == 0
    )
    card = out.read_text()
    assert "Round 1: training seed 3, corpus seed 11" in card
    assert "unils-train synth --out CORPUS1 --seed 11 --hours 12.5 --test-hours 1\n" in card
    assert "unils-train codec --config bundled --corpus CORPUS1 --run-dir RUN1 --steps 70\n" in card
    assert "| codec | 70 | 2 |" in card
    assert "somebody" not in card
    assert "synthetic corpus" in card
    assert "seen from both sides: 12.5." in card
    assert "procedural" in card
    assert "2.0 MB" in card
    row = "| jaw correlation while speaking | >= 0.88 | 0.81 | 0.80 | 0.82 | 0.84 | **missed** |"
    assert row in card
    assert "Missed:\n\n- jaw correlation while speaking: 0.81, not >= 0.88\n" in card
    assert "Not measured:\n\n- reaction F1 / with a shuffled partner\n" in card
    assert "4 times (95 % bootstrap interval over clips 3 to 5)" in card
    assert "| 0 | 0.93 |" in card
    assert "Apache-2.0, weights included." in card


def test_a_bundle_that_went_on_from_another_is_made_in_rounds(bundle: Path, tmp_path: Path) -> None:
    first = json.loads((bundle / "model.json").read_text())
    second = {
        **first,
        "provenance": {"seed": 4, "note": "A note.", "stages": {"dialogue": {"step": 90, "seconds": 60.0}}},
    }
    second["provenance"]["stages"]["from_bundle"] = {"sha256": "00", "provenance": first["provenance"]}
    second["provenance"]["stages"]["averaged"] = [{"step": 50, "share": 0.25}, {"step": 90, "share": 0.75}]
    (bundle / "model.json").write_text(json.dumps(second))
    evals = [write_eval(tmp_path / "e", [result(1)])]
    corpora = [write_corpus(tmp_path / "c1"), write_corpus(tmp_path / "c2", seed=12)]
    card = model_card.write_card(bundle, evals, corpora)
    assert "Round 1: training seed 3, corpus seed 11" in card
    assert "Round 2: training seed 4, corpus seed 12" in card
    assert "unils-train codec --config bundled --corpus CORPUS1 --run-dir RUN1 --steps 70\n" in card
    assert "--config bundled_further --corpus CORPUS2 --run-dir RUN2 --from-bundle BUNDLE1 --steps 90\n" in card
    assert "unils-train average BEST_AT_50.pt BEST_AT_90.pt --shares 0.25,0.75 -o AVERAGED2.pt\n" in card
    assert "--run-dir RUN2 --checkpoint AVERAGED2.pt -o BUNDLE2\n" in card
    assert "A note." in card
    assert "seen from both sides: 12.5 and then 12.5." in card
    with pytest.raises(model_card.CardError, match="2 rounds, and 1 corpora"):
        model_card.write_card(bundle, evals, corpora[:1])


def test_the_weights_before_stand_beside_those_of_now(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    now = write_eval(tmp_path / "now", [result(1, 0.9)])
    before = write_eval(tmp_path / "before", [result(1, 0.45)], sha="cd" * 32)
    evaluation = json.loads((before / "eval.json").read_text())
    evaluation["results"][0]["lines"][0]["figure"] = "0.5"
    (before / "eval.json").write_text(json.dumps(evaluation))
    card = model_card.write_card(bundle, [now], [corpus], before)
    assert "| jaw correlation while speaking | >= 0.88 | 0.5 | 0.81 |" in card
    (before / "eval.json").write_text(json.dumps({**evaluation, "ids": ["c9a"]}))
    with pytest.raises(model_card.CardError, match="other conversations"):
        model_card.write_card(bundle, [now], [corpus], before)


def test_speed_is_judged_by_its_targets(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    bench = {
        "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux"},
        "model": {"backend": "cpu", "backend_detail": "avx512"},
        "step_us": {"p50": 300.0},
        "frame_ready_us": {"p99": 700.0},
        **{"step_to_weight_read": 2.5, "sessions_per_core": 120, "session_bytes": 3_000_000},
        **{"import_ms": 80.0, "load_to_first_frame_ms": 310.0},
    }
    compare = {"torch": "2.0", "frames": 500, "native_us": 300.0, "pytorch_us": 6000.0, "ratio": 20.0}
    for name, content in (("bench", bench), ("compare", compare)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    evals = [write_eval(tmp_path / "e", [result(1)])]
    card = model_card.write_card(bundle, evals, [corpus], None, tmp_path / "bench.json", tmp_path / "compare.json")
    assert "| frame ready after its last sample, p99 | <= 5 ms | 0.7 ms | met |" in card
    assert "| step / reading its weights once | <= 1.5 times | 2.5 times | **missed** |" in card
    assert "| real-time sessions on a core | >= 40 | 120 | met |" in card
    assert "| model load to first frame | <= 300 ms | 310 ms | **missed** |" in card
    assert "A CPU" in card
    assert "20.0 times faster" in card


def test_an_evaluation_of_other_weights_is_refused(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    stale = write_eval(tmp_path / "stale", [result(1)], sha="00" * 32)
    with pytest.raises(model_card.CardError, match="other weights"):
        model_card.write_card(bundle, [stale], [corpus])
    with pytest.raises(SystemExit):
        model_card.main(
            ["--bundle", str(bundle), "--eval", str(stale), "--corpora", str(corpus), "-o", str(tmp_path / "card.md")]
        )
    assert not (tmp_path / "card.md").exists()


def test_the_look_ahead_that_targets_are_judged_at_must_be_there(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(model_card.CardError, match="look-ahead 1"):
        model_card.write_card(bundle, [write_eval(tmp_path / "e", [result(0)])], [corpus])


def test_the_card_and_the_evaluation_print_the_same_lines() -> None:
    lines = quality_lines(copy.deepcopy(Metrics().result()), None)
    assert all(line.what in markdown_table(lines) for line in lines)
