# ruff: noqa: RUF001
# IPA is full of letters that look like others.
"""Parts of the simulator that need no speech synthesiser: grammars, persons, lips, reactions, acoustics."""

from __future__ import annotations

import numpy as np
import pytest

from unils_training.data.synth import acoustics, lips
from unils_training.data.synth.face import EYE_RANGE, cues, perform
from unils_training.data.synth.people import VOICES, Person, make_person
from unils_training.data.synth.prosody import Prosody, analyse
from unils_training.data.synth.sentences import GRAMMARS, HELD_OUT_LANGUAGES, KINDS, sentence
from unils_training.rigs import ARKIT_CHANNELS

SECONDS = 60


@pytest.fixture
def person() -> Person:
    return make_person(0, "train", 3)


def voice_with_phrases(starts: list[float]) -> Prosody:
    """A voice that says a phrase of 2 s at each of `starts`, whose pitch falls at its end."""
    rows = SECONDS * 100
    rank = np.full(rows, np.nan, dtype=np.float32)
    energy = np.zeros(rows, dtype=np.float32)
    for start in starts:
        first = round(start * 100)
        energy[first : first + 200] = 0.05
        rank[first : first + 160] = 0.6
        rank[first + 160 : first + 200] = 0.1
    speech = energy > 0
    return Prosody(np.where(speech, 120.0, 0.0).astype(np.float32), rank, energy, speech)


def nods(person: Person, other: Prosody, own: Prosody | None = None) -> list[float]:
    own = own or voice_with_phrases([])
    result = perform(np.random.default_rng(1), person, [], [], own, other, SECONDS * 25)
    return [begin for kind, begin, _ in result.events if kind == "nod"]


def test_every_grammar_has_every_kind_of_sentence() -> None:
    rng = np.random.default_rng(0)
    for language in GRAMMARS:
        for kind in KINDS:
            for _ in range(30):
                text = sentence(rng, language, kind)
                assert text
                assert "{" not in text


def test_sentences_and_persons_follow_from_the_seed(person: Person) -> None:
    first, second = ([sentence(np.random.default_rng(7), "en", kind) for kind in KINDS] for _ in range(2))
    assert first == second
    assert make_person(0, "train", 3) == person
    assert make_person(1, "train", 3) != person


def test_voices_of_splits_are_disjoint() -> None:
    voices = [{voice for group in VOICES[split].values() for voice in group} for split in ("train", "val", "test")]
    assert not voices[0] & voices[1]
    assert not voices[0] & voices[2]
    assert not voices[1] & voices[2]


def test_test_speaks_languages_that_training_never_heard() -> None:
    train = {make_person(0, "train", index).language for index in range(200)}
    test = {make_person(0, "test", index).language for index in range(200)}
    assert not train & set(HELD_OUT_LANGUAGES)
    assert set(HELD_OUT_LANGUAGES) <= test


def test_lips_meet_before_the_release_of_p(person: Person) -> None:
    phones = [("a", 0.5, 0.7, 1.0), ("p", 0.75, 0.80, 1.0), ("a", 0.80, 1.0, 1.0)]
    moved = lips.move(phones, 2.0, person)
    at = np.arange(len(moved.closed)) / lips.RATE
    assert moved.closed[(at > 0.71) & (at < 0.75)].min() > 0.95
    assert moved.closed[at < 0.64].max() == 0
    assert moved.closed[at > 0.82].max() == 0
    assert len(moved.closures) == 1


def test_a_mouth_moves_a_little_before_its_sound_and_no_earlier(person: Person) -> None:
    moved = lips.move([("u", 1.0, 1.3, 1.0)], 2.0, person)
    pucker = moved.shape[:, lips.FEATURES.index("pucker")]
    at = np.arange(len(pucker)) / lips.RATE
    assert pucker[at < 0.93].max() == 0
    assert pucker[(at > 0.95) & (at < 1.0)].max() > 0.1 * pucker.max()


def test_diphthongs_pass_two_targets_and_unknown_phones_one() -> None:
    assert len(lips.targets_of("aɪ")) == 2
    assert len(lips.targets_of("ʘ")) == 1
    assert len(lips.targets_of("iː")) == 1


def test_listener_nods_after_each_invitation_at_a_fixed_delay(person: Person) -> None:
    starts = [3.0, 15.0, 27.0, 39.0]
    found = nods(person, voice_with_phrases(starts))
    assert len(found) == len(starts)
    np.testing.assert_allclose(np.array(found) - np.array(starts), 2.0 + person.nod_delay - 0.2, atol=0.02)


def test_another_partner_gets_other_nods(person: Person) -> None:
    assert nods(person, voice_with_phrases([3.0, 15.0])) != nods(person, voice_with_phrases([8.0, 20.0, 33.0]))
    assert nods(person, voice_with_phrases([])) == []


def test_nobody_nods_while_talking(person: Person) -> None:
    assert nods(person, voice_with_phrases([3.0]), own=voice_with_phrases([4.5])) == []


def test_a_phrase_without_a_fall_of_pitch_invites_nothing() -> None:
    voice = voice_with_phrases([3.0])
    flat = Prosody(
        voice.pitch, np.where(np.isnan(voice.rank), np.nan, 0.6).astype(np.float32), voice.energy, voice.speech
    )
    assert np.array(cues(voice)) == pytest.approx(np.array([[5.0, 2.0]]), abs=0.02)
    assert cues(flat) == []


@pytest.mark.parametrize("hertz", [70.0, 110.0, 190.0, 300.0])
def test_pitch_of_a_pulse_train_is_found(hertz: float) -> None:
    time = np.arange(16000) / 16000
    audio = sum(np.cos(2 * np.pi * hertz * k * time) / k for k in range(1, 12)).astype(np.float32) * 0.05
    pitch = analyse(audio).pitch[10:90]
    assert np.median(np.abs(pitch - hertz)) < 0.03 * hertz


def test_noise_has_no_pitch_and_silence_no_speech() -> None:
    rng = np.random.default_rng(0)
    assert np.mean(analyse((0.05 * rng.standard_normal(16000)).astype(np.float32)).pitch > 0) < 0.1
    quiet = analyse(np.zeros(16000, dtype=np.float32))
    assert not quiet.speech.any()


def test_what_is_heard_stays_in_range_and_length() -> None:
    rng = np.random.default_rng(0)
    voice = (0.2 * rng.standard_normal(48000)).astype(np.float32)
    for seed in range(40):
        for heard in (
            acoustics.hear_self(np.random.default_rng(seed), voice),
            acoustics.hear_other(np.random.default_rng(seed), voice, voice[::-1].copy()),
            acoustics.hear_other(np.random.default_rng(seed), np.zeros_like(voice), voice),
        ):
            assert heard.shape == voice.shape
            assert heard.dtype == np.float32
            assert np.isfinite(heard).all()
            assert np.abs(heard).max() <= 1.0


def test_eyes_stay_on_the_partner_when_the_head_turns(person: Person) -> None:
    silent = voice_with_phrases([])
    result = perform(np.random.default_rng(2), person, [], [], silent, silent, SECONDS * 25)
    yaw = result.motion[:, ARKIT_CHANNELS.index("headYaw")]
    look = (
        result.motion[:, ARKIT_CHANNELS.index("eyeLookOutLeft")]
        - result.motion[:, ARKIT_CHANNELS.index("eyeLookInLeft")]
    )
    away = np.zeros(len(yaw), bool)
    for kind, begin, end in result.events:
        if kind == "gaze_aversion":
            away[int(begin * 25) : int(end * 25) + 15] = True
    gaze = yaw + EYE_RANGE * look
    assert gaze[~away].std() < 0.05
