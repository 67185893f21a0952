"""The motion of one face in a conversation, and the labels of what it does.

Lips follow own phones (`lips`), brows and head follow own prosody, eyes follow attention, and everything a listener
does is a function of the *other's* voice and of constants of the person: who knows that voice knows the reaction.
Work is done at 100 rows a second; frame t is row 4t + 2, the pose at (t + 0.5)/25 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, firwin, sosfiltfilt

from unils_training.data.synth import lips as lips_module
from unils_training.data.synth.dialogue import Utterance
from unils_training.data.synth.people import Person
from unils_training.data.synth.prosody import RATE, Prosody, close_gaps, runs
from unils_training.rigs import ARKIT_CHANNELS

FRAME_RATE = 25
EVENT_KINDS = ("nod", "shake", "smile", "brow_raise", "laugh", "frown", "blink", "gaze_aversion", "lip_closure")
# Blinks a minute (FACTS: silent 19, speaking 25, listening 28).
_BLINKS = {"silent": 19.0, "speaking": 25.0, "listening": 28.0}
# Eye rotation at which an eyeLook channel is 1.
EYE_RANGE = 0.55
# A held expression loses this share of its size over this time.
_DECAY, _DECAY_SECONDS = 0.25, 3.0
# The share of a gaze shift that the head makes.
_HEAD_SHARE = 0.35

Track = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Performance:
    """`motion` (T, 55) float32; `events` (kind, begin, end) in seconds, ordered by begin; `speech` (T,) own speech."""

    motion: NDArray[np.float32]
    events: list[tuple[str, float, float]]
    speech: NDArray[np.bool_]


class _Face:
    """Tracks of a face while it is being made: `values[name]` is (N,) at 100 rows a second."""

    def __init__(self, rng: np.random.Generator, person: Person, rows: int) -> None:
        self.rng, self.person, self.rows = rng, person, rows
        self.time = np.arange(rows) / RATE
        self.values = {name: np.zeros(rows) for name in ARKIT_CHANNELS}
        self.smile = np.zeros(rows)
        self.laugh = np.zeros(rows)
        self.frown = np.zeros(rows)
        self.worry = np.zeros(rows)
        self.brow = np.zeros(rows)
        self.closed = np.zeros(rows)
        self.lip_press = np.zeros(rows)
        self.head = np.zeros((rows, 3))
        self.gaze = np.zeros((rows, 2))
        self.events: list[tuple[str, float, float]] = []

    def add(self, kind: str, begin: float, end: float) -> None:
        end = min(end, self.rows / RATE)
        if end - begin > 0.02 and begin >= 0:
            self.events.append((kind, begin, end))

    def pulse(self, track: Track, begin: float, end: float, size: float, rise: float, fall: float) -> None:
        """Raise `track` to at least `size` between `begin` and `end`, with cosine flanks inside and a slow decay."""
        first, last = max(0, round(begin * RATE)), min(self.rows, round(end * RATE))
        if last <= first:
            return
        time = self.time[first:last]
        up = np.clip((time - begin) / rise, 0, 1)
        down = np.clip((end - time) / fall, 0, 1)
        shape = size * (0.5 - 0.5 * np.cos(np.pi * up)) * (0.5 - 0.5 * np.cos(np.pi * down))
        shape *= 1 - _DECAY * np.clip((time - begin - rise) / _DECAY_SECONDS, 0, 1)
        np.maximum(track[first:last], shape, out=track[first:last])

    def drift(self, hertz: float) -> Track:
        """Smooth noise of unit standard deviation below `hertz`."""
        sos = butter(2, hertz, fs=RATE, output="sos")
        pad = round((3 + 1 / hertz) * RATE)
        noise = sosfiltfilt(sos, self.rng.standard_normal(self.rows + 2 * pad))[pad:-pad]
        return np.asarray(noise / (noise.std() + 1e-9))

    def follow(self, target: Track, seconds: float) -> Track:
        """`target` (N, ...) followed without overshoot, a critically damped step response of about `seconds`."""
        length = round(4 * seconds * RATE)
        time = np.arange(length) / RATE
        rate = 4.0 / seconds
        kernel = rate * rate * time * np.exp(-rate * time)
        kernel /= kernel.sum()
        columns = target.reshape(self.rows, -1).T
        padded = [
            np.convolve(np.concatenate([np.full(length, column[0]), column]), kernel)[length : length + self.rows]
            for column in columns
        ]
        return np.stack(padded, axis=1).reshape(target.shape)


def _soft(mask: Mask, seconds: float) -> Track:
    half = round(seconds * RATE)
    kernel = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(mask.astype(np.float64), kernel / kernel.sum(), mode="same")


def phrases(voice: Prosody) -> list[tuple[float, float]]:
    """Begin and end (s) of a voice's phrases that are followed by a pause of 200 ms or more."""
    sounding = close_gaps(close_gaps(voice.energy > 0.003, 12), 20)
    return [(begin / RATE, end / RATE) for begin, end in runs(sounding) if end + 20 <= len(sounding)]


def cues(voice: Prosody) -> list[tuple[float, float]]:
    """Times (s) at which a voice invites a reaction, and how long (s) the phrase before was.

    Such is the end of a phrase of at least 1.5 s of speech whose last half second holds 110 ms or more of low pitch
    (under the 26th percentile) and which is followed by a pause of 200 ms or more.
    """
    low = close_gaps(np.nan_to_num(voice.rank, nan=1.0) < 0.26, 4)
    return [
        (end, end - begin)
        for begin, end in phrases(voice)
        if end - begin >= 1.5
        and any(last - first >= 11 for first, last in runs(low[round(end * RATE) - 50 : round(end * RATE)]))
    ]


def _lips(face: _Face, own: list[Utterance], seconds: float) -> None:
    person, values = face.person, face.values
    phones: list[tuple[str, float, float, float]] = []
    for utterance in own:
        effort = float(np.clip(utterance.loudness**0.35, 0.8, 1.15))
        speech = utterance.speech
        phones += [
            (phone, utterance.start + a, utterance.start + b, effort)
            for phone, a, b in zip(speech.phones, speech.phone_start, speech.phone_end, strict=True)
        ]
    result = lips_module.move(phones, seconds, person)
    shape, closed = result.shape[::2][: face.rows], result.closed[::2][: face.rows]
    jaw, spread, funnel, pucker, tuck, tongue, bare = shape.T
    face.closed = closed
    jaw = jaw * (1 - 0.65 * closed)
    left, right = 1 + 0.5 * person.asymmetry, 1 - 0.5 * person.asymmetry
    # With mouthClose equal to jawOpen the lips touch.
    values["jawOpen"] = jaw
    values["mouthClose"] = closed * jaw + 0.02 * closed
    values["mouthFunnel"] = funnel * (1 - 0.5 * closed)
    values["mouthPucker"] = pucker
    values["jawForward"] = 0.15 * funnel + 0.05 * jaw
    values["jawLeft"] = 0.08 * jaw * max(0.0, person.asymmetry) * 3
    values["jawRight"] = 0.08 * jaw * max(0.0, -person.asymmetry) * 3
    values["mouthRollLower"] = 0.65 * tuck + 0.22 * closed
    values["mouthRollUpper"] = 0.20 * closed
    values["mouthShrugLower"] = 0.12 * closed + 0.10 * funnel
    values["mouthShrugUpper"] = 0.08 * closed + 0.15 * tuck
    values["cheekPuff"] = 0.10 * closed
    values["tongueOut"] = tongue * (1 - closed)
    for side, gain in (("Left", left), ("Right", right)):
        values[f"mouthPress{side}"] = 0.42 * closed * gain
        values[f"mouthStretch{side}"] = 0.55 * spread * gain * (1 - 0.6 * closed)
        values[f"mouthDimple{side}"] = 0.20 * spread * gain
        values[f"mouthSmile{side}"] = 0.12 * spread * gain
        values[f"mouthLowerDown{side}"] = (0.28 * jaw + 0.35 * bare) * gain * (1 - closed) * (1 - 0.8 * tuck)
        values[f"mouthUpperUp{side}"] = (0.22 * jaw + 0.24 * bare + 0.32 * tuck) * gain * (1 - closed)
    for begin, end in result.closures:
        face.add("lip_closure", begin, end)


def _own_expression(face: _Face, own: list[Utterance], prosody: Prosody) -> None:
    """What a speaker's face does with their own words: moods, accents, questions, beats of the head."""
    person = face.person
    for utterance in own:
        begin, end, strength = utterance.start, utterance.end, utterance.intensity
        if utterance.kind == "happy":
            face.pulse(face.smile, begin - 0.05, end + 0.9, (0.35 + 0.35 * strength) * person.smile_gain, 0.45, 0.8)
            face.add("smile", begin - 0.05, end + 0.9)
        elif utterance.kind == "laugh":
            face.pulse(face.smile, begin - 0.10, end + 1.2, min(0.95, 0.8 * person.smile_gain), 0.35, 1.0)
            face.pulse(face.laugh, begin - 0.05, end + 0.3, 1.0, 0.25, 0.5)
            face.add("smile", begin - 0.10, end + 1.2)
            face.add("laugh", begin - 0.05, end + 0.3)
        elif utterance.kind == "sad":
            face.pulse(face.worry, begin, end + 0.6, (0.3 + 0.3 * strength) * person.frown_gain, 0.5, 0.7)
        elif utterance.kind == "greeting":
            face.pulse(face.smile, begin, end + 0.5, 0.35 * person.smile_gain, 0.4, 0.7)
            face.add("smile", begin, end + 0.5)
        elif utterance.kind == "question":
            face.pulse(face.brow, end - 0.75, end + 0.35, 0.6 * person.brow_gain, 0.3, 0.45)
            face.add("brow_raise", end - 0.75, end + 0.35)
        elif utterance.kind == "negation":
            _shake(face, begin + 0.05, 0.10)
        elif utterance.kind == "back_channel" and person.nods_aloud:
            _nod(face, begin + 0.05)
    # Accents: syllables louder and higher than the person's average.
    level = prosody.energy * (0.5 + np.nan_to_num(prosody.rank, nan=0.0))
    level = np.convolve(level, np.hanning(15) / np.hanning(15).sum(), mode="same")
    typical = float(np.percentile(level[prosody.speech], 75)) if prosody.speech.any() else 1.0
    middle = level[1:-1]
    peaks = np.flatnonzero((middle > level[:-2]) & (middle >= level[2:]) & (middle > typical)) + 1
    last = last_raise = -2.0
    for row in peaks:
        at = row / RATE
        if at - last < 0.35:
            continue
        last = at
        salience = min(1.0, float(level[row]) / typical - 1.0)
        dip = np.zeros(face.rows)
        face.pulse(dip, at - 0.16, at + 0.34, (0.015 + 0.045 * salience) * person.beat_gain, 0.18, 0.30)
        face.head[:, 1] -= dip
        if salience > 0.6 and at - last_raise >= 1.2:
            last_raise = at
            face.pulse(face.brow, at - 0.18, at + 0.42, (0.42 * salience - 0.05) * person.brow_gain, 0.18, 0.35)
            face.add("brow_raise", at - 0.18, at + 0.42)


def _nod(face: _Face, begin: float, size: float = 1.0) -> float:
    """One nod of the person's own shape, `size` times as deep as usual; returns its end."""
    person = face.person
    length = person.nod_cycles / person.nod_hz
    first, last = round(begin * RATE), round((begin + length) * RATE)
    if first < 0 or last > face.rows:
        return begin + length
    phase = (np.arange(first, last) / RATE - begin) / length
    decay = 1 - 0.45 * phase
    face.head[first:last, 1] -= (
        size * person.nod_gain * decay * (0.5 - 0.5 * np.cos(2 * np.pi * person.nod_cycles * phase))
    )
    face.add("nod", begin, begin + length)
    return begin + length


def _shake(face: _Face, begin: float, size: float) -> None:
    length = 1.1
    first, last = round(begin * RATE), round((begin + length) * RATE)
    if first < 0 or last > face.rows:
        return
    phase = (np.arange(first, last) / RATE - begin) / length
    side = np.sign(face.person.aversion_side)
    face.head[first:last, 0] += (
        side * size * np.sqrt(np.clip(np.sin(np.pi * phase), 0, 1)) * np.sin(2 * np.pi * 2 * phase)
    )
    face.add("shake", begin, begin + length)


def _reactions(face: _Face, other: list[Utterance], speech: Mask, voice: Prosody) -> None:
    """What a listener's face does with the other's words."""
    person = face.person
    wait = person.reaction_delay
    rest = 7.0 - 3.0 * person.responsiveness
    ready = 0.0
    for cue, length in cues(voice):
        # The pitch fell about 200 ms before the voice stopped; 700 ms after that fall the head goes down.
        begin = cue - 0.2 + person.nod_delay
        first, last = round(begin * RATE), round((begin + 0.8) * RATE)
        if begin < ready or speech[max(0, first - 20) : last].any():
            continue
        ready = _nod(face, begin, float(np.clip(0.4 + 0.2 * length, 0.7, 1.2))) + rest
    # Lips pressed for a moment when the other pauses: the mouth of a silent listener is not dead.
    ready = 0.0
    for _, end in phrases(voice):
        begin, length = end + 0.3, 0.45 + 0.25 * person.responsiveness
        if begin >= ready and not speech[max(0, round(begin * RATE) - 30) : round((begin + length) * RATE) + 30].any():
            face.pulse(face.lip_press, begin, begin + length, 1.0, 0.2, 0.25)
            ready = begin + 9.0
    for utterance in other:
        begin, end, strength = utterance.start, utterance.end, utterance.intensity
        if utterance.kind in ("happy", "laugh", "greeting"):
            size = (0.30 + 0.35 * strength) * person.smile_gain
            face.pulse(face.smile, begin + wait, end + wait + 0.5, min(size, 0.9), 0.4, 0.9)
            face.add("smile", begin + wait, end + wait + 0.5)
        elif utterance.kind == "sad":
            face.pulse(
                face.frown, begin + wait + 0.15, end + 0.5, (0.35 + 0.3 * strength) * person.frown_gain, 0.5, 0.6
            )
            face.add("frown", begin + wait + 0.15, end + 0.5)
            if strength > 0.35:
                _shake(face, end + 0.35, 0.075)
        elif utterance.kind == "question":
            face.pulse(face.brow, end - 0.05, end + 0.85, 0.55 * person.brow_gain, 0.25, 0.4)
            face.add("brow_raise", end - 0.05, end + 0.85)
    # The head follows the speaker's energy between 0.2 and 1.1 Hz, 0.6 s late: that is the delay of this causal filter.
    energy = np.sqrt(np.maximum(voice.energy[: face.rows], 0.0))
    lag = firwin(121, [0.2, 1.1], fs=RATE, pass_zero=False)
    echo = np.convolve(np.pad(energy, (0, max(0, face.rows - len(energy)))), lag)[: face.rows]
    echo *= 1 - _soft(speech, 0.4)
    face.head[:, 1] += person.mimicry * 5.0 * echo
    face.head[:, 0] += person.mimicry * 5.0 * person.mimicry_yaw * echo


def _attention(face: _Face, speech: Mask, other_speech: Mask) -> None:
    """Gaze, in the room: at the partner while listening, away at the start of a turn and at times while speaking."""
    rng, person = face.rng, face.person
    target = np.zeros((face.rows, 2))
    turn_starts = [begin / RATE for begin, end in runs(close_gaps(speech, 100)) if end - begin > 80]
    now, away = 0.0, False
    seconds = face.rows / RATE
    while now < seconds:
        row = min(int(now * RATE), face.rows - 1)
        coming = [start for start in turn_starts if now - 0.2 <= start < now + 0.8]
        speaking = bool(speech[row])
        chance = (
            0.75
            if coming
            else 0.40 * person.aversion
            if speaking
            else 0.16 * person.aversion
            if not other_speech[row]
            else 0.08 * person.aversion
        )
        if not away and rng.random() < chance:
            away = True
            begin = max(now, coming[0] - 0.15) if coming else now
            length = float(rng.uniform(0.7, 1.8) if speaking or coming else rng.uniform(0.4, 1.1))
            side = 1.0 if rng.random() < 0.5 + 0.5 * person.aversion_side else -1.0
            point = (side * rng.uniform(0.14, 0.38) * person.gaze_spread, rng.normal(0.02, 0.12) * person.gaze_spread)
            first, last = round(begin * RATE), round((begin + length) * RATE)
            target[round(now * RATE) : first] = target[max(0, round(now * RATE) - 1)]
            target[first:last] = point
            face.add("gaze_aversion", begin, begin + length)
            now = begin + length
        else:
            away = False
            length = float(rng.uniform(0.5, 1.6))
            # People look from one eye to the other and to the mouth of who they talk to.
            point = (
                rng.choice([-0.03, 0.0, 0.03]) + rng.normal(0, 0.008),
                rng.choice([0.0, 0.0, -0.045]) + rng.normal(0, 0.008),
            )
            target[round(now * RATE) : round((now + length) * RATE)] = point
            now += length
    face.gaze = face.follow(target, 0.06)
    face.head[:, :2] += _HEAD_SHARE * face.follow(target, 0.45)


def _blinks(face: _Face, speech: Mask, other_speech: Mask) -> None:
    rng, person = face.rng, face.person
    ends = sorted([end / RATE for _, end in runs(speech)] + [end / RATE for _, end in runs(other_speech)])
    shift = 0.5 * 0.5**2
    now = float(rng.uniform(0.3, 3.0))
    track = np.zeros(face.rows)
    seconds = face.rows / RATE
    while now < seconds - 0.6:
        near = [end for end in ends if abs(end + 0.08 - now) < 0.45]
        if near:
            now = max(now - 0.45, near[0] + 0.08)
        length = float(np.clip(person.blink_seconds * np.exp(0.12 * rng.standard_normal()), 0.2, 0.6))
        close, hold = 0.30 * length, 0.045
        face.pulse(track, now, now + length, person.blink_depth, close, length - close - hold)
        face.add("blink", now, now + length)
        row = min(int(now * RATE), face.rows - 1)
        state = "speaking" if speech[row] else "listening" if other_speech[row] else "silent"
        # Log-normal intervals with the mean that the rate asks for.
        mean = 60.0 / (_BLINKS[state] * person.blink_rate)
        now += max(length + 0.3, mean * float(np.exp(0.5 * rng.standard_normal() - shift)))
    for side, gain in (("Left", 1.0 + 0.2 * person.asymmetry), ("Right", 1.0 - 0.2 * person.asymmetry)):
        face.values[f"eyeBlink{side}"] = np.clip(track * gain, 0, 1)


def _sway(face: _Face, speech: Mask, other_speech: Mask) -> None:
    """Head motion that never stops: breathing, sway, shifts of posture at phrase ends; more while speaking."""
    rng, person = face.rng, face.person
    activity = 0.75 + 0.45 * _soft(speech, 0.5)
    for axis in range(3):
        slow = face.drift(person.sway_hz)
        quick = face.drift(1.1)
        face.head[:, axis] += person.sway[axis] * (0.95 * slow + 0.16 * quick) * activity
    breath = np.sin(
        2 * np.pi * np.cumsum(np.full(face.rows, 0.26 / RATE) * np.exp(0.1 * face.drift(0.1))) + rng.uniform(0, 6.28)
    )
    face.head[:, 1] += 0.006 * breath
    posture = np.zeros((face.rows, 3))
    pose = rng.normal(0, [0.05, 0.035, 0.04])
    last = 0
    for _, end in runs(close_gaps(speech | other_speech, 30)):
        posture[last:end] = pose
        if rng.random() < 0.35:
            pose = rng.normal(0, [0.065, 0.04, 0.045])
        last = end
    posture[last:] = pose
    face.head += face.follow(posture, 0.9)


def _compose(face: _Face) -> None:
    """Put expressions, gaze and head on channels."""
    person, values = face.person, face.values
    left, right = 1 + person.asymmetry, 1 - person.asymmetry
    mood = 0.03 * face.drift(0.05)
    # No expression is held like a mask, and none is ever quite gone.
    smile, frown, worry, brow = (
        track * (1 + 0.12 * face.drift(0.8)) for track in (face.smile, face.frown, face.worry, face.brow)
    )
    smile = np.clip(smile + person.smile_rest + mood + 0.018 * face.drift(0.35), 0, 1)
    brow = np.clip(brow + person.brow_rest + mood + 0.025 * face.drift(0.35), 0, 1)
    laugh = face.laugh
    # Rounded or shut lips take some of the smile away.
    rounded = np.clip(values["mouthPucker"] + values["mouthFunnel"], 0, 1)
    mouth_smile = smile * (1 - 0.35 * rounded) * (1 - 0.25 * face.closed)
    for side, gain in (("Left", left), ("Right", right)):
        values[f"mouthSmile{side}"] = values[f"mouthSmile{side}"] + mouth_smile * gain
        values[f"mouthFrown{side}"] = (0.45 * frown + 0.5 * worry) * gain
        values[f"mouthDimple{side}"] = values[f"mouthDimple{side}"] + 0.2 * smile * gain
        values[f"cheekSquint{side}"] = (0.55 * smile**1.3 + 0.3 * laugh) * gain
        values[f"browDown{side}"] = (0.75 * frown) * gain + 0.05 * laugh
        values[f"browOuterUp{side}"] = (
            np.clip(0.8 * brow + 0.012 * face.drift(0.35), 0, 1) * gain * (1 - 0.5 * np.clip(frown, 0, 1))
        )
        values[f"noseSneer{side}"] = (0.18 * frown + 0.15 * laugh) * gain
        values[f"eyeSquint{side}"] = person.squint_rest + 0.30 * smile + 0.35 * laugh + 0.15 * frown
        values[f"eyeWide{side}"] = 0.30 * np.clip(brow - 0.15, 0, 1)
        values[f"mouthPress{side}"] = values[f"mouthPress{side}"] + 0.25 * face.lip_press * gain
    values["mouthRollLower"] = values["mouthRollLower"] + 0.18 * face.lip_press
    values["mouthShrugLower"] = values["mouthShrugLower"] + 0.08 * face.lip_press
    values["browInnerUp"] = np.clip(0.75 * brow + 0.8 * worry, 0, 1)
    values["mouthLeft"] = 0.10 * smile * max(0.0, person.asymmetry) * 3
    values["mouthRight"] = 0.10 * smile * max(0.0, -person.asymmetry) * 3
    # Smiles widen rounded lips less than resting ones.
    values["mouthPucker"] = values["mouthPucker"] * (1 - 0.3 * smile)
    face.head[:, 1] += 0.06 * laugh + 0.012 * laugh * np.sin(2 * np.pi * 4.5 * face.time)
    face.head -= face.head.mean(axis=0)
    # Eyes turn against the head, so that the gaze stays where it was.
    yaw = np.clip(face.gaze[:, 0] - face.head[:, 0], -EYE_RANGE, EYE_RANGE) / EYE_RANGE
    pitch = np.clip(face.gaze[:, 1] - face.head[:, 1], -EYE_RANGE, EYE_RANGE) / EYE_RANGE
    to_left, to_right = np.maximum(yaw, 0), np.maximum(-yaw, 0)
    values["eyeLookOutLeft"], values["eyeLookInRight"] = to_left, to_left
    values["eyeLookInLeft"], values["eyeLookOutRight"] = to_right, to_right
    for side in ("Left", "Right"):
        values[f"eyeLookUp{side}"] = np.maximum(pitch, 0)
        values[f"eyeLookDown{side}"] = np.maximum(-pitch, 0)
        lowered = 0.22 * np.maximum(-pitch, 0) + 0.06 * laugh
        values[f"eyeBlink{side}"] = values[f"eyeBlink{side}"] + lowered * (1 - values[f"eyeBlink{side}"])
    for axis, name in enumerate(("headYaw", "headPitch", "headRoll")):
        values[name] = face.head[:, axis]


def _merge(events: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Events in order of their begin; overlapping ones of one kind become one."""
    merged: list[tuple[str, float, float]] = []
    for kind in EVENT_KINDS:
        for begin, end in sorted((begin, end) for name, begin, end in events if name == kind):
            if merged and merged[-1][0] == kind and begin < merged[-1][2]:
                merged[-1] = (kind, merged[-1][1], max(end, merged[-1][2]))
            else:
                merged.append((kind, begin, end))
    return sorted(merged, key=lambda event: event[1])


def perform(
    rng: np.random.Generator,
    person: Person,
    own: list[Utterance],
    other: list[Utterance],
    own_voice: Prosody,
    other_voice: Prosody,
    frames: int,
) -> Performance:
    """The face of `person` over `frames` frames, who says `own` and hears `other`."""
    rows = frames * (RATE // FRAME_RATE)
    face = _Face(rng, person, rows)
    speech, other_speech = own_voice.speech[:rows], other_voice.speech[:rows]
    _lips(face, own, frames / FRAME_RATE)
    _sway(face, speech, other_speech)
    _own_expression(face, own, own_voice)
    _reactions(face, other, speech, other_voice)
    _attention(face, speech, other_speech)
    _blinks(face, speech, other_speech)
    _compose(face)
    rows_of_frames = slice(2, None, RATE // FRAME_RATE)
    motion = np.stack([face.values[name][rows_of_frames] for name in ARKIT_CHANNELS], axis=1)[:frames]
    motion[:, :-3] = np.clip(motion[:, :-3], 0, 1)
    motion[:, -3:] -= motion[:, -3:].mean(axis=0)
    return Performance(motion.astype(np.float32), _merge(face.events), speech[rows_of_frames][:frames])
