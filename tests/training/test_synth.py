"""The conversation simulator end to end, on a corpus of a few short conversations."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from unils_training.data import synth
from unils_training.data.espeak import library_path
from unils_training.data.folder import Clip, list_ids, open_corpus, read_clip
from unils_training.data.people import VOICES
from unils_training.data.sentences import HELD_OUT_LANGUAGES
from unils_training.data.statistics import measure, table
from unils_training.rigs import ARKIT_CHANNELS

pytestmark = pytest.mark.skipif(library_path() is None, reason="libespeak-ng is not installed")

HOURS = {"train": 0.045, "val": 0.01, "test": 0.01}
SEED = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.generate(tmp_path_factory.mktemp("synth") / "corpus", SEED, HOURS, workers=2)


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Clip]:
    return [read_clip(corpus, name) for ids in open_corpus(corpus).splits.values() for name in ids]


def channel(clip: Clip, name: str) -> np.ndarray:
    return clip.motion[:, clip.channels.index(name)]


def events(clip: Clip, kind: str) -> list[tuple[int, int]]:
    chosen = clip.event_kind == kind
    return list(zip(clip.event_start[chosen].tolist(), clip.event_end[chosen].tolist(), strict=True))


def contents(corpus: Path) -> dict[str, bytes]:
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*.wav")} | {
        f"{path.relative_to(corpus)}:{name}": array.tobytes()
        for path in corpus.rglob("motion.npz")
        for name, array in np.load(path).items()
    }


def test_a_corpus_does_not_depend_on_the_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    other = synth.generate(tmp_path / "corpus", SEED, HOURS, workers=1)
    assert contents(other) == contents(corpus)
    assert (other / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()


def test_resume_completes_what_is_missing_and_keeps_the_rest(corpus: Path, tmp_path: Path) -> None:
    broken = tmp_path / "corpus"
    shutil.copytree(corpus, broken)
    names = list_ids(broken, "train")
    shutil.rmtree(broken / names[0])
    (broken / "corpus.json").unlink()
    kept = (broken / names[2] / "self.wav").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="--resume"):
        synth.generate(broken, SEED, HOURS)
    with pytest.raises(ValueError, match="other settings"):
        synth.generate(broken, SEED + 1, HOURS, resume=True)
    synth.generate(broken, SEED, HOURS, resume=True)
    assert contents(broken) == contents(corpus)
    assert (broken / names[2] / "self.wav").stat().st_mtime_ns == kept


def test_the_command_refuses_a_folder_in_use(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synth.main(["--out", str(corpus), "--hours", "0.01"]) == 1
    assert "not empty" in capsys.readouterr().err


def test_clips_keep_the_contract(corpus: Path, clips: list[Clip]) -> None:
    assert open_corpus(corpus).channels == ARKIT_CHANNELS
    for clip in clips:
        frames = len(clip.motion)
        assert clip.channels == ARKIT_CHANNELS
        assert frames * 640 == len(clip.self_audio) == len(clip.other_audio)
        assert clip.motion[:, :52].min() >= 0
        assert clip.motion[:, :52].max() <= 1
        assert np.abs(clip.motion[:, 52:]).max() < 0.8
        assert np.abs(clip.motion[:, 52:].mean(axis=0)).max() < 1e-3
        assert clip.event_start.min() >= 0
        assert clip.event_end.max() <= frames
        assert np.all(clip.phone_end >= clip.phone_start)
        assert clip.phone_end.max() <= frames / 25 + 1e-6
        assert clip.person
        assert clip.voice
        assert clip.language


def test_both_sides_of_a_conversation_hear_each_other(corpus: Path) -> None:
    for name in list_ids(corpus, "train"):
        if name.endswith("b"):
            continue
        first, second = read_clip(corpus, name), read_clip(corpus, name[:-1] + "b")
        for own, heard in ((first, second), (second, first)):
            level = np.abs(heard.other_audio.astype(np.float64)).reshape(-1, 640).mean(axis=1)
            assert own.speech_mask is not None
            assert heard.speech_mask is not None
            only_own = own.speech_mask & ~heard.speech_mask
            nobody = ~own.speech_mask & ~heard.speech_mask
            assert level[only_own].mean() > 2 * level[nobody].mean()


def test_splits_share_no_voice_and_training_no_held_out_language(corpus: Path) -> None:
    used = {split: {read_clip(corpus, name).voice for name in ids} for split, ids in open_corpus(corpus).splits.items()}
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]
    for split in ("train", "val"):
        for name in list_ids(corpus, split):
            assert not read_clip(corpus, name).language.startswith(HELD_OUT_LANGUAGES)
    for split, voices in used.items():
        assert voices <= {voice for group in VOICES[split].values() for voice in group}


def test_lips_close_on_p_b_and_m_and_open_on_a(clips: list[Clip]) -> None:
    gaps, closures, wide = [], 0, []
    for clip in clips:
        apart = channel(clip, "jawOpen") - channel(clip, "mouthClose")
        for start, end in events(clip, "lip_closure"):
            gaps.append(apart[start:end].min())
        closures += sum(phone[0] in "pbm" for phone in clip.phone)
        for phone, start, end in zip(clip.phone, clip.phone_start, clip.phone_end, strict=True):
            if phone[0] == "a" and end - start > 0.1:
                wide.append(apart[int((start + end) / 2 * 25)])
    assert np.percentile(gaps, 98) < 0.03
    assert 0.7 * closures < len(gaps) <= closures
    assert np.mean(wide) > 0.3


def test_the_mouth_rests_in_own_silence(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.speech_mask is not None
        quiet = ~np.convolve(clip.speech_mask, np.ones(11), mode="same").astype(bool)
        assert channel(clip, "jawOpen")[quiet].mean() < 0.02


def test_both_eyes_blink_as_often_as_people_do(clips: list[Clip]) -> None:
    minutes = sum(len(clip.motion) for clip in clips) / 1500
    blinks = [(clip, start, end) for clip in clips for start, end in events(clip, "blink")]
    assert 12 < len(blinks) / minutes < 35
    for clip, start, end in blinks:
        assert channel(clip, "eyeBlinkLeft")[start:end].max() > 0.75
        assert channel(clip, "eyeBlinkRight")[start:end].max() > 0.75
        assert 5 <= end - start <= 17


def test_motion_is_smooth(clips: list[Clip]) -> None:
    """Heads turn at most some 150 degrees a second, and no channel jumps between frames but lids and lips."""
    for clip in clips:
        assert np.abs(np.diff(clip.motion[:, 52:], axis=0)).max() < 0.11
        for name in ("browInnerUp", "browDownLeft", "mouthFrownLeft", "eyeSquintLeft", "cheekSquintLeft"):
            assert np.abs(np.diff(channel(clip, name))).max() < 0.25, name


def test_the_head_is_never_still(clips: list[Clip]) -> None:
    for clip in clips:
        speed = np.abs(np.diff(clip.motion[:, 52:], axis=0)).sum(axis=1)
        seconds = speed[: len(speed) // 25 * 25].reshape(-1, 25).sum(axis=1)
        assert seconds.min() > 0.002
        assert np.all(clip.motion[:, 52:].std(axis=0) > 0.01)
        assert np.all(clip.motion[:, 52:].std(axis=0) < 0.25)


def test_nods_answer_the_partner_and_not_a_stranger(corpus: Path) -> None:
    total = measure(corpus, "train")
    assert total.listener_nods >= 3
    assert total.after_cue > 0.9 * total.listener_nods
    assert total.after_wrong_cue < 0.5 * total.listener_nods


def test_the_table_of_statistics_is_markdown(corpus: Path) -> None:
    lines = table(measure(corpus, "train", limit=2)).splitlines()
    assert len(lines) > 15
    assert all(line.count("|") == 4 for line in lines)
