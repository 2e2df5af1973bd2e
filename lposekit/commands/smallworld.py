"""`lposekit smallworld`: train both stages on a procedural world, and measure what they learn."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from trainer.smallworld.settings import SmallWorldSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["smallworld"], SmallWorldSettings, argv)
    from trainer.smallworld import experiment

    return finish(experiment.run(loaded.settings), as_json=loaded.json)
