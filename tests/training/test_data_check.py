"""`unils-train data check` finds what was planted, and nothing in a clean dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from unils_talk_files import record, write_unils_talk

from unils_training.cli import main
from unils_training.data.check import Report, best_lag, check_dataset, longest_run
from unils_training.data.dataset import open_dataset
from unils_training.data.features import load_features
from unils_training.data.folder import open_corpus
from unils_training.data.index import write_index
from unils_training.data.records import CorpusError
from unils_training.rigs import ARKIT_CHANNELS, FLAME_CHANNELS

FRAMES = 600
NAME = "c0a"
JAW = ARKIT_CHANNELS.index("jawOpen")


def write_clip(folder: Path, rng: np.random.Generator, loudness: np.ndarray, side: int, person: str) -> None:
    """A face whose jaw follows its own voice; `loudness` (2, FRAMES) is that of both."""
    folder.mkdir(parents=True)
    for track, loud in (("self", loudness[side]), ("other", loudness[1 - side])):
        voice = 0.2 * np.repeat(loud, 640) * rng.standard_normal(FRAMES * 640)
        soundfile.write(folder / f"{track}.wav", voice.clip(-0.9, 0.9), 16000, subtype="PCM_16")
    motion = 0.3 + 0.2 * np.tanh(np.cumsum(0.05 * rng.standard_normal((FRAMES, 55)), axis=0))
    motion[:, 52:] -= motion[:, 52:].mean(axis=0)
    motion[:, JAW] = 0.5 * loudness[side]
    np.savez(
        folder / "motion.npz",
        motion=motion.astype(np.float32),
        channels=np.array(ARKIT_CHANNELS),
        speech_mask=loudness[side] > 0.05,
        person=person,
    )


def loudness_of_two(rng: np.random.Generator) -> np.ndarray:
    """Turns of 3 s in which syllables of 160 ms rise and fall (2, FRAMES)."""
    syllables = np.repeat(rng.random((2, FRAMES // 4)), 4, axis=1) * np.tile([0.4, 1.0, 1.0, 0.4], FRAMES // 4)
    turn = np.arange(FRAMES) // 75 % 2
    return syllables * np.stack((turn == 0, turn == 1))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clean") / "corpus"
    splits: dict[str, list[str]] = {}
    for conversation, split in enumerate(("train", "train", "val")):
        loudness = loudness_of_two(rng)
        for side in (0, 1):
            name = f"c{conversation}{'ab'[side]}"
            write_clip(folder / name, rng, loudness, side, f"{split}-{side}")
            splits.setdefault(split, []).append(name)
    document = {"format": "unils-corpus", "format_version": 1, "rig": "arkit", "channels": ARKIT_CHANNELS}
    (folder / "corpus.json").write_text(json.dumps({**document, "splits": splits}))
    return folder


@pytest.fixture
def corpus(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "corpus")
    return tmp_path / "corpus"


def check(corpus: Path) -> Report:
    return check_dataset(open_dataset(corpus))


def found(report: Report) -> set[tuple[str, str, str]]:
    return {(problem.severity, problem.kind, problem.id) for problem in report.problems}


def change(corpus: Path, **arrays: Any) -> None:
    path = corpus / NAME / "motion.npz"
    np.savez(path, **{**dict(np.load(path)), **arrays})


def motion_of(corpus: Path, name: str = NAME) -> np.ndarray:
    return np.array(np.load(corpus / name / "motion.npz")["motion"])


def wav(corpus: Path, track: str, edit: Callable[[np.ndarray], np.ndarray], rate: int = 16000) -> None:
    path = corpus / NAME / f"{track}.wav"
    audio, _ = soundfile.read(path)
    soundfile.write(path, edit(audio), rate, subtype="PCM_16")


def contents(corpus: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((corpus / "corpus.json").read_text())
    edit(document)
    (corpus / "corpus.json").write_text(json.dumps(document))


def plant_nan(corpus: Path) -> None:
    motion = motion_of(corpus)
    motion[33, 4] = np.nan
    change(corpus, motion=motion)


def plant_swap(corpus: Path) -> None:
    folder = corpus / NAME
    (folder / "self.wav").rename(folder / "x.wav")
    (folder / "other.wav").rename(folder / "self.wav")
    (folder / "x.wav").rename(folder / "other.wav")


def plant_delay(corpus: Path, frames: int = 5) -> None:
    change(corpus, motion=np.roll(motion_of(corpus), frames, axis=0))


def plant_freeze(corpus: Path) -> None:
    motion = motion_of(corpus)
    motion[200:300] = motion[200]
    change(corpus, motion=motion)


def plant_range(corpus: Path) -> None:
    motion = motion_of(corpus)
    motion[7, 0] = 55.0
    change(corpus, motion=motion)


def plant_head(corpus: Path, value: float, frames: slice) -> None:
    motion = motion_of(corpus)
    motion[frames, 52] += value
    change(corpus, motion=motion)


def plant_twin(corpus: Path, split: str) -> None:
    shutil.copytree(corpus / NAME, corpus / "twin")
    contents(corpus, lambda document: document["splits"][split].append("twin"))


def plant_dead_channel(corpus: Path) -> None:
    for file in corpus.glob("*/motion.npz"):
        arrays = dict(np.load(file))
        arrays["motion"][:, 51] = 0.0
        np.savez(file, **arrays)


FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[str, str, str], str]] = {
    "NaN": (plant_nan, ("error", "unusable", NAME), "frame 33"),
    "swapped tracks": (plant_swap, ("warning", "swapped tracks", NAME), "other track"),
    "200 ms late": (plant_delay, ("warning", "out of sync", NAME), "200 ms after"),
    "200 ms early": (lambda c: plant_delay(c, -5), ("warning", "out of sync", NAME), "200 ms before"),
    "silent own track": (lambda c: wav(c, "self", np.zeros_like), ("warning", "silent track", NAME), "self track"),
    "silent other track": (lambda c: wav(c, "other", np.zeros_like), ("warning", "silent track", NAME), "other track"),
    "wrong rate": (lambda c: wav(c, "self", lambda a: a, 48000), ("error", "unusable", NAME), "48000 Hz"),
    "short track": (lambda c: wav(c, "other", lambda a: a[:-640]), ("error", "unusable", NAME), "equally long"),
    "missing file": (lambda c: (c / NAME / "other.wav").unlink(), ("error", "unusable", NAME), "missing"),
    "missing partner": (
        lambda c: contents(c, lambda d: d["splits"]["train"].remove("c0b")),
        ("warning", "missing partner", NAME),
        "c0b",
    ),
    "unlisted folder": (
        lambda c: contents(c, lambda d: d["splits"]["train"].remove("c0b")),
        ("warning", "unlisted", ""),
        "c0b",
    ),
    "split conversation": (
        lambda c: contents(c, lambda d: d["splits"].update(train=["c0a", "c1a", "c1b"], val=["c0b", "c2a", "c2b"])),
        ("error", "conversation in two splits", NAME),
        "partner c0b in val",
    ),
    "person in two splits": (
        lambda c: change(c, person="val-0"),
        ("warning", "person in several splits", ""),
        "'val-0' is in train, val",
    ),
    "listed twice": (
        lambda c: contents(c, lambda d: d["splits"]["val"].append(NAME)),
        ("error", "listed twice", NAME),
        "train and again in val",
    ),
    "duplicate": (lambda c: plant_twin(c, "train"), ("warning", "duplicate", "twin"), "that of c0a"),
    "leaked duplicate": (lambda c: plant_twin(c, "val"), ("error", "duplicate", "twin"), "in split train and not val"),
    "clipping": (lambda c: wav(c, "self", lambda a: a * 40), ("warning", "clipping", NAME), "self track's samples"),
    "frozen": (plant_freeze, ("warning", "stuck motion", NAME), "4.0 s from frame 200"),
    "dead": (lambda c: change(c, motion=motion_of(c) * 0), ("error", "stuck motion", NAME), "never moves"),
    "out of range": (plant_range, ("warning", "out of range", NAME), "eyeBlinkLeft is 55 in frame 7"),
    "head off": (lambda c: plant_head(c, 0.3, slice(None)), ("warning", "head not centred", NAME), "headYaw"),
    "head jumps": (lambda c: plant_head(c, 1.2, slice(50, 52)), ("warning", "head jumps", NAME), "frame 49"),
    "wrong mask": (
        lambda c: change(c, speech_mask=~np.load(c / NAME / "motion.npz")["speech_mask"]),
        ("warning", "speech mask", NAME),
        "louder",
    ),
    "dead channel": (plant_dead_channel, ("warning", "constant channel", ""), "tongueOut"),
    "wrong rig": (lambda c: contents(c, lambda d: d.update(rig="flame")), ("warning", "rig", ""), "108 channels"),
    "empty": (lambda c: contents(c, lambda d: d.update(splits={"train": []})), ("error", "empty", ""), "no split"),
}


def test_a_clean_corpus_passes(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(clean), "--out", str(tmp_path / "report"), "--workers", "1"]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["problems"] == []
    assert report["by_split"]["train"]["clips"] == 4
    assert report["by_split"]["train"]["persons"] == 2
    assert report["by_split"]["val"]["hours"] == pytest.approx(2 * FRAMES / 25 / 3600)
    assert sum(report["levels"]["self"]) == 6 * FRAMES
    assert np.abs(report["lags_ms"]).max() < 20
    assert len(report["lags_ms"]) == 6
    states = report["by_split"]["train"]
    assert states["speaking"] + states["listening"] + states["silent"] == 4 * FRAMES
    assert 0.3 < states["speaking"] / (4 * FRAMES) < 0.55
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("report.json", "report.md", "durations.png", "states.png", "loudness.png", "ranges.png", "sync.png")
    }
    printed = capsys.readouterr().out
    assert "0 errors, 0 warnings" in printed
    assert printed.startswith((tmp_path / "report" / "report.md").read_text().rstrip())


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_and_named(fault: str, corpus: Path) -> None:
    plant, wanted, message = FAULTS[fault]
    plant(corpus)
    report = check(corpus)
    assert wanted in found(report)
    assert any(message in p.message for p in report.problems if (p.severity, p.kind, p.id) == wanted)


def test_the_exit_status_tells_errors_from_warnings(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "check", str(corpus), "--workers", "1"]
    plant_delay(corpus)
    assert main(command) == 0
    assert "warning: out of sync" in capsys.readouterr().out
    plant_nan(corpus)
    assert main(command) == 1
    assert "error: unusable" in capsys.readouterr().out
    assert main(["data", "check", str(corpus / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("unils-train data check: there is no folder")


@pytest.mark.slow
def test_the_report_does_not_depend_on_the_number_of_workers(corpus: Path) -> None:
    plant_nan(corpus)
    reports = [check_dataset(open_dataset(corpus), workers) for workers in (1, 2)]
    assert reports[0] == reports[1]


def test_a_report_on_many_clips_is_shortened_for_the_terminal_alone(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents(corpus, lambda d: d["splits"]["train"].extend(f"gone{i}" for i in range(30)))
    assert main(["data", "check", str(corpus), "--out", str(tmp_path / "report"), "--workers", "1"]) == 1
    assert "gone29" not in capsys.readouterr().out
    assert "gone29" in (tmp_path / "report" / "report.md").read_text()


def test_unils_talk_is_checked_the_same_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    records: dict[str, Any] = {}
    for i in range(2):
        loudness = loudness_of_two(rng)
        for side in (0, 1):
            code = (0.1 * np.tanh(np.cumsum(0.05 * rng.standard_normal((FRAMES, 112)), axis=0))).astype(np.float32)
            # The second conversation's jaws move 240 ms late.
            code[:, 103] = np.roll(0.3 * loudness[side], 6 * i)
            voice = 0.2 * np.repeat(loudness[side], 640) * rng.standard_normal(FRAMES * 640)
            changes = {"motioncode": code, "audio": voice.astype(np.float32), "speech_mask": loudness[side] > 0.05}
            records[f"r{i}{side}"] = record(rng, FRAMES, **changes)
    paired = {"train": {f"t{i}": [f"r{i}0", f"r{i}1", FRAMES] for i in range(3)}}
    talk = write_unils_talk(tmp_path / "talk", records, paired, {"train": [["r00", FRAMES]]})
    report = check(talk)
    assert {("error", "unusable", "t2a"), ("error", "unusable", "t2b")} < found(report)
    assert {("warning", "out of sync", "t1a"), ("warning", "out of sync", "t1b")} < found(report)
    assert ("warning", "duplicate", "r00") in found(report)
    assert report.by_split["train, motion only"]["clips"] == 1
    assert not any(problem.id in ("t0a", "t0b") for problem in report.problems)
    np.testing.assert_allclose(sorted(report.lags_ms), [0, 0, 240, 240], atol=20)
    assert report.channels == FLAME_CHANNELS


def test_lags_are_measured_to_parts_of_a_frame() -> None:
    time = np.arange(800) / 25.0
    signal = sum(np.sin(2 * np.pi * f * time + f) for f in (0.7, 1.3, 2.9))
    for lag in (-7.0, 0.0, 0.5, 4.25):
        shifted = sum(np.sin(2 * np.pi * f * (time - lag / 25) + f) for f in (0.7, 1.3, 2.9))
        measured, correlation = best_lag(np.asarray(signal), np.asarray(shifted), 15)
        assert measured == pytest.approx(lag, abs=0.1)
        assert correlation > 0.95
    assert best_lag(np.ones(800), np.asarray(signal), 15) == (0.0, 0.0)
    assert longest_run(np.array([0, 1, 1, 0, 1, 1, 1, 0], bool)) == (3, 4)
    assert longest_run(np.zeros(4, bool)) == (0, 0)


# --- the other two commands -------------------------------------------------------------------------------------------


def test_an_index_keeps_persons_and_conversations_together(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there already"):
        write_index(corpus)
    (corpus / "corpus.json").unlink()
    for i in range(40):
        for side in "ab":
            shutil.copytree(corpus / NAME, corpus / f"d{i:02d}{side}")
            path = corpus / f"d{i:02d}{side}" / "motion.npz"
            np.savez(path, **{**dict(np.load(path)), "person": f"person{i // 2}{side}"})
    shutil.copytree(corpus / NAME, corpus / "mute")
    for track in ("self", "other"):
        (corpus / "mute" / f"{track}.wav").unlink()
    assert main(["data", "index", str(corpus), "--val-share", "0.3", "--test-share", "0.3"]) == 0
    contents = open_corpus(corpus)
    assert contents.motion_only == {"train": ("mute",)}
    where = {name: split for split, ids in contents.splits.items() for name in ids}
    assert len(where) == 6 + 80
    assert set(where.values()) == {"train", "val", "test"}
    for i in range(40):
        assert where[f"d{i:02d}a"] == where[f"d{i:02d}b"] == where[f"d{i // 2 * 2:02d}a"]
    with pytest.raises(CorpusError, match="no folders"):
        write_index(tmp_path)


def test_features_can_be_made_ahead_of_training(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_nan(corpus)
    command = ["data", "cache", str(corpus), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert main([*command, "--strict"]) == 2
    assert "frame 33" in capsys.readouterr().err
    assert main(command) == 0
    assert "train: 3 clips, 0.02 h, 1 skipped" in capsys.readouterr().out
    stamp = (tmp_path / "cache" / "train" / "self_mel.npy").stat().st_mtime_ns
    assert load_features(corpus, "train", tmp_path / "cache").skipped.count == 1
    assert (tmp_path / "cache" / "train" / "self_mel.npy").stat().st_mtime_ns == stamp
    assert (tmp_path / "cache" / "train.paired" / "motion.npy").exists()
    assert main([*command, "--family", "published", "--split", "val"]) == 0
    assert (tmp_path / "cache" / "val" / "self_audio.npy").exists()
