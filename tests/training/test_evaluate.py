"""`unils-train eval` from a bundle and a corpus on disk to figures, tables and plots."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unils_training import evaluate, model_card
from unils_training.config import DefaultsConfig, ModelConfig, from_dict
from unils_training.data.dataset import open_dataset
from unils_training.evaluation import measure, models
from unils_training.evaluation.clips import Recording, choose, heard_audio, shuffled_partners
from unils_training.evaluation.measure import Task, divide, work
from unils_training.evaluation.models import Heard, Run
from unils_training.export import randomise, write_bundle
from unils_training.models.stream.model import StreamModel
from unils_training.rigs import ARKIT_CHANNELS

FRAMES = 150
SIZES = {
    "audio_encoder": {"width": 16, "depth": 1, "kernel": 3},
    "codec": {"width": 16, "depth": 1, "kernel": 3, "bits": 8, "levels": 2, "gains": [1.0, 0.5]},
    "generator": {
        **{"width": 32, "depth": 1, "heads": 2, "feed_forward": 32, "window_frames": 16},
        **{"audio_window_frames": 8, "style_tokens": 2, "head_width": 16},
    },
}


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conversations of 6 s: person a speaks in the first half, b in the second, and the jaw follows the voice."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    names = [f"c00000{i}{side}" for i in range(2) for side in "ab"]
    for i in range(2):
        voices, masks = {}, {}
        for side, spoken in (("a", slice(0, 75)), ("b", slice(75, 150))):
            masks[side] = np.zeros(FRAMES, bool)
            masks[side][spoken] = True
            loud = 4000.0 * np.repeat(np.abs(np.sin(np.arange(FRAMES) / 4.0)) * masks[side], 640)
            voices[side] = loud * rng.normal(size=FRAMES * 640)
        for side, other in (("a", "b"), ("b", "a")):
            place = folder / f"c00000{i}{side}"
            place.mkdir()
            write_wav(place / "self.wav", voices[side])
            write_wav(place / "other.wav", 0.5 * voices[other])
            motion = 0.02 * rng.normal(size=(FRAMES, 55)).cumsum(axis=0)
            motion[:, ARKIT_CHANNELS.index("jawOpen")] = 0.4 * np.abs(np.sin(np.arange(FRAMES) / 4.0)) * masks[side]
            np.savez(
                place / "motion.npz",
                motion=motion.astype(np.float32),
                channels=np.array(ARKIT_CHANNELS),
                frame_rate=25,
                speech_mask=masks[side],
                event_kind=np.array(["nod", "smile", "nod"]),
                event_start=np.array([100, 20, 80]),
                event_end=np.array([110, 40, 170]),
            )
    info = {"format": "unils-corpus", "format_version": 1, "seed": 7, "splits": {"train": [], "test": names}}
    info |= {"rig": "arkit", "channels": list(ARKIT_CHANNELS)}
    (folder / "corpus.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    model = StreamModel(from_dict(ModelConfig, SIZES), ARKIT_CHANNELS)
    randomise(model, seed=1)
    write_bundle(folder, model, DefaultsConfig(), {"seed": 1})
    return folder


def recording(corpus: Path, name: str) -> Recording:
    return Recording(open_dataset(corpus), name)


def test_a_clip_reads_motion_masks_labels_and_its_partner(corpus: Path) -> None:
    clip = recording(corpus, "c000001a")
    assert clip.frames == FRAMES
    assert clip.labels["nod"].tolist() == [[80, 150], [100, 110]]
    compared = clip.compare(np.zeros((FRAMES + 3, 55), np.float32))
    other = recording(corpus, "c000001b")
    assert np.array_equal(compared.other_speaking, other.speaking)
    assert compared.partner is not None
    assert np.array_equal(compared.partner.values, other.motion.values)
    assert np.flatnonzero(compared.listening)[[0, -1]].tolist() == [75, 149]


def test_a_corpus_without_masks_falls_back_to_the_level(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("self.wav", "other.wav"):
        (tmp_path / "x" / name).write_bytes((corpus / "c000000a" / name).read_bytes())
    with np.load(corpus / "c000000a" / "motion.npz") as file:
        np.savez(tmp_path / "x" / "motion.npz", motion=file["motion"], channels=file["channels"])
    info = json.loads((corpus / "corpus.json").read_text()) | {"splits": {"test": ["x"]}}
    (tmp_path / "corpus.json").write_text(json.dumps(info))
    side = recording(tmp_path, "x").compare(np.zeros((FRAMES, 55), np.float32))
    assert side.partner is None
    assert side.labels == {}
    assert np.mean(side.speaking[:75]) > 0.8
    assert not side.speaking[78:].any()
    assert np.mean(side.other_speaking[75:]) > 0.8


def test_a_shuffled_partner_comes_from_another_conversation(corpus: Path) -> None:
    dataset = open_dataset(corpus)
    names = dataset.splits["test"]
    partners = shuffled_partners(dataset, names)
    assert set(partners) == set(names)
    assert all(name[:-1] != other[:-1] for name, other in partners.items())
    with pytest.raises(ValueError, match="two conversations"):
        shuffled_partners(dataset, names[:2])


def test_a_choice_of_clips_is_about_as_long_as_asked_and_repeatable(corpus: Path) -> None:
    dataset = open_dataset(corpus)
    names = dataset.splits["test"]
    chosen, skipped = choose(dataset, names, 0.15, seed=3)
    assert len(chosen) == 2
    assert skipped == {}
    assert chosen == choose(dataset, names, 0.15, seed=3)[0]
    assert choose(dataset, names, None, seed=3)[0] == list(names)


def test_every_clip_has_a_seed_of_its_own() -> None:
    run = Run(Path("b"), "native", 1, seed=5)
    assert run.clip_seed("c0a") != run.clip_seed("c0b")
    assert run.clip_seed("c0a") == Run(Path("b"), "native", 4, seed=5).clip_seed("c0a")
    assert run.clip_seed("c0a") != Run(Path("b"), "native", 1, seed=6).clip_seed("c0a")


def one_clip(corpus: Path, backend: str = "native") -> Task:
    return Task(Run(Path("b"), backend, 1), open_dataset(corpus), {"c000000a": "c000000a"})


def test_a_model_that_answers_with_the_truth_gets_full_marks(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = recording(corpus, "c000000a").motion.values.astype(np.float32)
    monkeypatch.setattr(measure, "generate", lambda *_: [truth])
    sums = work(one_clip(corpus))
    result = sums.metrics.result()
    assert result["lips"]["jaw_correlation"] == pytest.approx(1.0, abs=1e-5)
    assert result["paper"]["speaking"]["mhd"] == pytest.approx(0.0, abs=1e-6)
    assert result["alive"]["stuck_channels"] == []
    distributions = sums.distributions.result()
    for state in ("speaking", "listening"):
        for group, shares in distributions[state].items():
            assert shares["truth"] == shares["prediction"], group
            assert sum(shares["truth"]) == pytest.approx(1.0)


def test_a_model_that_loses_frames_is_an_error_not_a_score(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "generate", lambda *_: [np.zeros((FRAMES - 1, 55), np.float32)])
    with pytest.raises(RuntimeError, match="149 frames came out of 150"):
        work(one_clip(corpus))


def test_a_shifted_distribution_shows_in_its_histogram(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = recording(corpus, "c000000a").motion.values.astype(np.float32)
    wide[:, ARKIT_CHANNELS.index("jawOpen")] = 0.95
    monkeypatch.setattr(measure, "generate", lambda *_: [wide])
    lips = work(one_clip(corpus)).distributions.result()["speaking"]["lips"]
    assert sum(lips["prediction"][55:]) > sum(lips["truth"][55:]) + 0.02


def test_the_shuffled_voice_is_the_other_conversations_track(corpus: Path) -> None:
    clip = recording(corpus, "c000000a")
    assert np.array_equal(heard_audio(clip, "c000000a"), clip.other_audio)
    assert np.array_equal(heard_audio(clip, "c000001b"), recording(corpus, "c000001b").other_audio)


def test_clips_are_generated_together_as_far_as_memory_goes(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(corpus)
    voices = {name: name for name in dataset.splits["test"]}
    monkeypatch.setattr(measure, "BATCH_FRAMES", 3 * FRAMES)
    pieces = list(divide(Task(Run(Path("b"), "torch", 1), dataset, voices)))
    assert [len(piece.voices) for piece in pieces] == [3, 1]
    assert {name for piece in pieces for name in piece.voices} == set(voices)
    assert [len(piece.voices) for piece in divide(Task(Run(Path("b"), "native", 1), dataset, voices))] == [1] * 4


def evaluated(corpus: Path, model: Path, out: Path, *more: str) -> dict:
    arguments = [str(model), str(corpus), "--out", str(out), "--keep", "1", "--jobs", "1", *more]
    assert evaluate.main(arguments) == 0
    return json.loads((out / "eval.json").read_text())


def test_evaluation_writes_figures_tables_and_plots(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = evaluated(corpus, bundle, tmp_path / "out", "--look-ahead", "1,2", "--shuffle-partner")
    assert [result["look_ahead_self"] for result in evaluation["results"]] == [1, 2]
    assert evaluation["minutes"] == pytest.approx(4 * 6 / 60)
    assert evaluation["corpus"]["seed"] == 7
    assert evaluation["bundle"]["sha256"] == json.loads((bundle / "model.json").read_text())["weights"]["sha256"]
    for result in evaluation["results"]:
        assert len(result["lines"]) == 16
        assert set(result["contingency"]) == {"f1", "f1_shuffled", "ratio", "ratio_low", "ratio_high"}
    table = (tmp_path / "out" / "eval.md").read_text()
    assert table.count("jaw correlation while speaking") == 2
    assert "| S-LVE | S-MHD | S-FDD |" in table
    assert "| stream, look-ahead 2 |" in table
    assert "missed" in table
    assert table in capsys.readouterr().out
    plots = [f"{name}_{look_ahead}.png" for name in ("listening_spectra", "distributions") for look_ahead in (1, 2)]
    for name in ("c000000a.npz", "c000000a.png", *plots):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    card = model_card.write_card(bundle, [tmp_path / "out"], [corpus], before=tmp_path / "out")
    figure = evaluation["results"][0]["lines"][0]["figure"]
    assert f"| jaw correlation while speaking | >= 0.88 | {figure} |" in card
    assert f"| jaw correlation while speaking | >= 0.88 | {figure} | {figure} |" in card


def assert_alike(one: Any, other: Any) -> None:
    """Two trees of JSON hold the same, numbers up to how a BLAS with several threads rounds its sums."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for part, counterpart in zip(one, other, strict=True):
            assert_alike(part, counterpart)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
    else:
        assert one == other


@pytest.mark.slow
def test_two_processes_find_what_one_finds(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    apart = evaluated(corpus, bundle, tmp_path / "two", "--jobs", "2")
    alone = evaluated(corpus, bundle, tmp_path / "one")
    assert_alike(apart["results"], alone["results"])


def test_a_long_run_is_one_session_over_many_conversations(
    corpus: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "LONG_RUN_BLOCK_MINUTES", 0.2)
    dataset = open_dataset(corpus)
    blocks = measure.long_run(Run(bundle, "native", 1), dataset, dataset.splits["test"], 0.5)
    assert [block["from_minute"] for block in blocks] == pytest.approx([0.0, 0.2, 0.4])
    assert all(np.isfinite(block["largest_value"]) for block in blocks)


def heard(corpus: Path, name: str, frames: int, seed: int) -> Heard:
    clip = recording(corpus, name)
    return Heard(clip.self_audio[: frames * 640], clip.other_audio[: frames * 640], seed)


def test_the_native_engine_and_pytorch_get_the_same_marks(corpus: Path, bundle: Path) -> None:
    clip = heard(corpus, "c000000a", 40, seed=3)
    native, torch = (models.generate(Run(bundle, backend, 1), [clip])[0] for backend in ("native", "torch"))
    assert native == pytest.approx(torch, abs=1e-4)


def test_a_clip_is_the_same_alone_and_beside_longer_ones(corpus: Path, bundle: Path) -> None:
    run = Run(bundle, "torch", 1)
    clips = [heard(corpus, "c000000a", 30, seed=3), heard(corpus, "c000001b", 50, seed=4)]
    together = models.generate(run, clips)
    assert [len(motion) for motion in together] == [30, 50]
    assert together[0] == pytest.approx(models.generate(run, clips[:1])[0], abs=1e-5)


def test_what_cannot_be_evaluated_is_refused_by_a_sentence(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(model: Path, *more: str) -> str:
        assert evaluate.main([str(model), str(corpus), "--out", str(tmp_path / "out"), *more]) == 2
        return capsys.readouterr().err

    assert "has no split 'dev'" in refused(bundle, "--split", "dev")
    assert "'train' of" in refused(bundle, "--split", "train")
    assert "no bundle" in refused(tmp_path)
    assert "missing" in refused(tmp_path / "best.pt")
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"not a checkpoint")
    assert "damaged" in refused(noise)
    assert not (tmp_path / "out").exists()
