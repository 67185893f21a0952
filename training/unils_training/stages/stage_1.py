"""What the dialogue stages of both families take over from stage 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from unils_training.config import ConfigError


def load_prior(generator: nn.Module, result: Mapping[str, Tensor], hears: Callable[[str], bool], sizes: str) -> None:
    """Takes over what a prior learned. What hears stays as it was made, and may differ from that of the prior's model.

    Args:
        hears: whether a parameter of that name takes part in hearing.
        sizes: the key of the configuration that the generator's sizes stand under.

    Raises:
        ConfigError: the prior is of other sizes.
    """
    learned = {name: value for name, value in result.items() if not hears(name)}
    try:
        missing, unexpected = generator.load_state_dict(learned, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"the prior does not fit {sizes}: {str(error).splitlines()[-1].strip()}") from error
    wrong = [*unexpected, *(name for name in missing if not hears(name))]
    if wrong:
        raise ConfigError(f"the prior does not fit {sizes}: it differs in {wrong[0]}")
