"""Speech from espeak-ng through its C library: audio and the times of its phones.

The library holds one synthesiser per process and its noise generators run on from call to call, so the same text sounds
the same only at the same place in a process's history. Who needs repeatable speech starts a fresh process.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

SAMPLE_RATE = 16000
SILENCE = ""

_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS, _PHONEME_IPA = 1, 2
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_EVENT_END, _EVENT_PHONEME = 0, 7
_LIBRARY_RATE = 22050
_TAIL_SECONDS = 0.04


class EspeakError(RuntimeError):
    """espeak-ng is missing or refused what it was asked."""


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    ]


@dataclass(frozen=True)
class Speech:
    """One utterance: `audio` (N,) float32 in [-1, 1] at 16 kHz; phones (IPA, "" is a pause) in seconds."""

    audio: NDArray[np.float32]
    phones: tuple[str, ...]
    phone_start: NDArray[np.float64]
    phone_end: NDArray[np.float64]


def library_path() -> str | None:
    """The file name of libespeak-ng on this machine, or None where it is not installed."""
    for name in ("libespeak-ng.so.1", ctypes.util.find_library("espeak-ng")):
        if name is None:
            continue
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


class Espeak:
    """The process's synthesiser. Make one per process."""

    def __init__(self) -> None:
        path = library_path()
        if path is None:
            raise EspeakError(
                "libespeak-ng.so.1 was not found: install espeak-ng (Debian and Ubuntu: apt install espeak-ng)"
            )
        self._library = ctypes.CDLL(path)
        rate = self._library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _PHONEME_IPA)
        if rate != _LIBRARY_RATE:
            raise EspeakError(f"espeak-ng could not start (it answered {rate}): its voices may be missing")
        self._blocks: list[bytes] = []
        self._events: list[tuple[int, str]] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback_type(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            self._blocks.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while events[i].type != _EVENT_END:
            if events[i].type == _EVENT_PHONEME:
                self._events.append((events[i].sample, events[i].phoneme.decode("utf-8", "ignore")))
            i += 1
        return 0

    def speak(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50, volume: int = 100
    ) -> Speech:
        """Synthesise `text` with `voice` ("en-us+f3"); `rate` in words a minute, the rest 0..100 (volume to 200)."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range), (_VOLUME, volume)):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        self._blocks.clear()
        self._events.clear()
        data = text.encode()
        self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        audio = np.frombuffer(b"".join(self._blocks), dtype=np.int16).astype(np.float32) / 32768.0
        return self._cut(audio)

    def _cut(self, audio: NDArray[np.float32]) -> Speech:
        phones: list[str] = []
        starts: list[int] = []
        for sample, phone in self._events:
            # Markers such as "(en)" say that the text changed language; they have no sound.
            if phone.startswith("("):
                continue
            if phones and phones[-1] == SILENCE == phone:
                continue
            phones.append(phone)
            starts.append(sample)
        while phones and phones[-1] == SILENCE:
            phones.pop()
            last = starts.pop()
            audio = audio[: last + int(_TAIL_SECONDS * _LIBRARY_RATE)]
        ends = [*starts[1:], len(audio)]
        # 16000/22050 = 320/441
        audio = resample_poly(audio, 320, 441).astype(np.float32) if len(audio) else audio
        return Speech(audio, tuple(phones), np.array(starts) / _LIBRARY_RATE, np.array(ends) / _LIBRARY_RATE)
