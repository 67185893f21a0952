"""Who speaks: voices, their splits, and the constants of one person's face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unils_training.data.synth.sentences import HELD_OUT_LANGUAGES

SPLITS = ("train", "val", "test")
MOTION_ONLY = "motion"
"""The pool of persons whose faces are kept without their voices; they sound like persons to train on."""
_POOLS = (*SPLITS, MOTION_ONLY)

# Variants of espeak-ng that sound like people (robots, whispers and special effects are left out).
VOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "female": ("f1", "f2", "f4", "Alicia", "Annie", "anika", "aunty", "linda", "steph", "steph2"),
        "male": (
            "m1",
            "m2",
            "m3",
            "m5",
            "m6",
            "m8",
            "Alex",
            "Andy",
            "Denis",
            "Gene",
            "Jacky",
            "Lee",
            "Marco",
            "Michael",
            "Mike",
            "adam",
            "announcer",
            "antonio",
            "benjamin",
            "boris",
            "caleb",
            "david",
            "ed",
            "edward",
            "gustave",
            "iven",
            "iven2",
            "john",
            "klatt",
            "klatt2",
            "klatt4",
            "max",
            "michel",
            "miguel",
            "norbert",
            "pablo",
            "paul",
            "quincy",
            "rob",
            "robert",
            "travis",
            "victor",
        ),
    },
    "val": {"female": ("f3", "grandma"), "male": ("m7", "Diogo", "Mario", "marcelo", "klatt5")},
    "test": {
        "female": ("f5", "Andrea", "belinda", "steph3"),
        "male": ("m4", "Hugo", "Henrique", "pedro", "sandro", "shelby", "zac", "klatt3"),
    },
}

# espeak-ng names of the accents of each language; `LANGUAGE_WEIGHTS` is their share in training and validation.
ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc"),
    "de": ("de",),
    "fr": ("fr", "fr-be"),
    "es": ("es", "es-419"),
    "it": ("it",),
    "nl": ("nl",),
    "sv": ("sv",),
    "pl": ("pl",),
    "tr": ("tr",),
    "pt": ("pt-br", "pt"),
    "cs": ("cs",),
}
LANGUAGE_WEIGHTS: dict[str, float] = {
    "en": 5.0,
    "de": 1.5,
    "fr": 1.5,
    "es": 1.5,
    "it": 1.2,
    "nl": 1.0,
    "sv": 1.0,
    "pl": 1.0,
    "tr": 1.0,
}
HELD_OUT_SHARE_OF_TEST = 0.35


@dataclass(frozen=True)
class Person:
    """A voice and the constants of a face; drawn once per person, the same in every conversation.

    Gains multiply channel groups (1 is average); angles are radians, times seconds.
    """

    name: str
    voice: str
    accent: str
    language: str
    rate: float
    pitch: float
    pitch_range: float
    # lips
    jaw_gain: float
    lip_gain: float
    spread_gain: float
    asymmetry: float
    # upper face
    blink_rate: float
    blink_seconds: float
    blink_depth: float
    brow_gain: float
    brow_rest: float
    squint_rest: float
    smile_rest: float
    smile_gain: float
    frown_gain: float
    # head and gaze
    sway: tuple[float, float, float]
    sway_hz: float
    beat_gain: float
    gaze_spread: float
    aversion: float
    aversion_side: float
    # listening
    nod_hz: float
    nod_cycles: int
    nod_gain: float
    nod_delay: float
    nods_aloud: bool
    reaction_delay: float
    mimicry: float
    mimicry_yaw: float
    responsiveness: float


def pool_number(pool: str) -> int:
    """What random numbers of a split, or of `MOTION_ONLY`, are seeded with."""
    return _POOLS.index(pool)


def make_person(seed: int, split: str, index: int) -> Person:
    """Person `index` of `split`, or of `MOTION_ONLY`; the same for the same arguments on every machine."""
    rng = np.random.default_rng([seed, 1, pool_number(split), index])
    if split == "test" and rng.random() < HELD_OUT_SHARE_OF_TEST:
        language = str(rng.choice(list(HELD_OUT_LANGUAGES)))
    else:
        weights = np.array(list(LANGUAGE_WEIGHTS.values()))
        language = str(rng.choice(list(LANGUAGE_WEIGHTS), p=weights / weights.sum()))
    accent = str(rng.choice(list(ACCENTS[language])))
    gender = "female" if rng.random() < 0.5 else "male"
    variant = str(rng.choice(list(VOICES["train" if split == MOTION_ONLY else split][gender])))

    def around(centre: float, spread: float) -> float:
        """Log-normal around `centre`, never beyond two spreads."""
        return float(centre * np.exp(spread * np.clip(rng.standard_normal(), -2, 2)))

    two_beat = rng.random() < 0.45
    return Person(
        name=f"{split}-{index:04d}",
        voice=variant,
        accent=accent,
        language=language,
        rate=around(165.0, 0.12),
        pitch=float(np.clip(rng.normal(50, 14), 20, 80)),
        pitch_range=float(np.clip(rng.normal(52, 14), 25, 85)),
        jaw_gain=around(1.0, 0.12),
        lip_gain=around(1.0, 0.15),
        spread_gain=around(1.0, 0.25),
        asymmetry=float(rng.normal(0, 0.10)),
        blink_rate=around(1.0, 0.22),
        blink_seconds=around(0.30, 0.18),
        blink_depth=float(rng.uniform(0.92, 1.0)),
        brow_gain=around(1.0, 0.35),
        brow_rest=float(rng.uniform(0.0, 0.12)),
        squint_rest=float(rng.uniform(0.0, 0.12)),
        smile_rest=float(rng.uniform(0.0, 0.12)),
        smile_gain=around(1.0, 0.22),
        frown_gain=around(1.0, 0.25),
        sway=(around(0.055, 0.35), around(0.042, 0.35), around(0.035, 0.35)),
        sway_hz=around(0.22, 0.3),
        beat_gain=around(1.0, 0.35),
        gaze_spread=around(1.0, 0.25),
        aversion=around(1.0, 0.3),
        aversion_side=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.8)),
        nod_hz=float(rng.uniform(2.6, 4.0)) if two_beat else float(rng.uniform(1.8, 2.2)),
        nod_cycles=2 if two_beat else 1,
        nod_gain=around(0.11, 0.25),
        nod_delay=float(rng.uniform(0.66, 0.74)),
        nods_aloud=bool(rng.random() < 0.4),
        reaction_delay=float(rng.uniform(0.56, 0.64)),
        mimicry=around(0.030, 0.35),
        mimicry_yaw=float(rng.normal(0, 0.4)),
        responsiveness=float(rng.uniform(0.0, 1.0)),
    )
