"""What the ablation is made of: variants of a configuration, and the runs of stages behind each.

Variants of one seed share a codec, and a prior where theirs would be the same.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unils_training.config import Config, ConfigError, from_dict, to_dict

SHARED = "shared"
PRIOR_OF_DIALOGUES = "prior_of_dialogues"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train. `changes` are overrides by dotted key; `prior` names the run whose stage 1 it stands on."""

    name: str
    title: str
    prior: str
    changes: tuple[tuple[str, Any], ...] = ()


FULL = Variant("full", "full", SHARED)
VARIANTS: tuple[Variant, ...] = (
    FULL,
    Variant("no_stage_1", "without stage 1", "", (("dialogue.stage_1", False),)),
    Variant("mixed", "one mixed cross-attention", SHARED, (("{model}.cross_attention", "mixed"),)),
    Variant("no_other_track", "without the other track", SHARED, (("dialogue.other_track", False),)),
    Variant("dialogues_only", "stage 1 on dialogues only", PRIOR_OF_DIALOGUES),
)
MODEL_KEYS = {"stream": "model.generator", "published": "published"}
"""Where the sizes of each family's generator stand in the configuration."""


def find_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of those names, in the order of `VARIANTS`; all of them where there are none.

    Raises:
        ConfigError: no such variant, or the full one is missing, with which the others are compared.
    """
    known = {variant.name: variant for variant in VARIANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"there is no variant {unknown[0]!r}; there are {', '.join(known)}")
    if names and FULL.name not in names:
        raise ConfigError(f"the variants need {FULL.name!r} among them, with which the others are compared")
    return tuple(variant for variant in VARIANTS if not names or variant.name in names)


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage to be trained in the folder `config.run`."""

    stage: typing.Literal["codec", "prior", "dialogue"]
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.run) / self.stage


@dataclasses.dataclass(frozen=True)
class VariantRun:
    """One variant with one seed: the stages that it needs, in order, those that others need too included."""

    variant: Variant
    config: Config
    stages: tuple[StageRun, ...]

    @property
    def checkpoint(self) -> Path:
        """What is evaluated."""
        return self.stages[-1].folder / "best.pt"

    @property
    def evaluation(self) -> Path:
        """The folder of its evaluation."""
        return Path(self.config.run) / "eval"

    @property
    def label(self) -> str:
        return f"{self.config.family}, seed {self.config.seed}, {self.variant.title}"


def plan(base: Config, variant: Variant, seed: int, out: Path, stage_1_seed: int | None = None) -> VariantRun:
    """The runs of a variant with a seed, in folders below `out`/family/seed.

    With `stage_1_seed`, codec and priors are those of that seed whatever the seed of the dialogue stage.
    """
    first = seed if stage_1_seed is None else stage_1_seed
    before = out / base.family / f"seed{first}"
    shared = before / SHARED

    def run(name: str, changes: Sequence[tuple[str, Any]] = (), **sources: Path) -> Config:
        dialogue = name not in (SHARED, PRIOR_OF_DIALOGUES)
        folder = out / base.family / f"seed{seed}" if dialogue else before
        values: dict[str, Any] = {"seed": seed if dialogue else first, "run": str(folder / name)}
        values |= {f"{stage}_from": str(path) for stage, path in sources.items()}
        renamed = {key.format(model=MODEL_KEYS[base.family]): value for key, value in changes}
        return changed(base, values | renamed)

    stages = [StageRun("codec", run(SHARED))]
    sources = {"codec": shared}
    if variant.prior == SHARED:
        stages.append(StageRun("prior", run(SHARED)))
    elif variant.prior:
        stages.append(StageRun("prior", run(variant.prior, (("prior.motion_only", False),), codec=shared)))
    if variant.prior:
        sources["prior"] = before / variant.prior
    config = run(variant.name, variant.changes, **sources)
    return VariantRun(variant, config, (*stages, StageRun("dialogue", config)))


def changed(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with values under dotted keys put in place of its own. Raises ConfigError."""
    tree = to_dict(config)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        table = tree
        for parent in parents:
            table = table[parent]
        table[leaf] = value
    result: Config = from_dict(Config, tree)
    return result
