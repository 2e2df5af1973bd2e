"""What a kind of dataset tells the build about itself. A new kind is a new recipe and nothing else.

The build (`pipelines.build`) asks a recipe in this order: `preflight`, `fixed_facts` and `card_facts`, `plans`; then
each worker process asks for its `worker`, once, and has it build one plan after the other. A recipe is a plain value
that can be pickled: it travels to the workers. docs/decisions/2026-11-28-recipes.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypedDict, TypeVar

from lposekit import __version__
from lposekit.errors import LposekitError, Outcome
from lposekit.json_values import JsonObject, JsonValue
from lposekit.settings import changeable_settings, flatten_settings, settings_digest
from lposekit.shards.card import DatasetCard
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, ShardKind
from lposekit.stage_times import StageTimes
from lposekit.versions import card_versions, installed_versions


class Plan(Protocol):
    """One shard's worth of input."""

    @property
    def shard(self) -> int: ...


ActorHandle: TypeAlias = Any
"""Ray's handle of an actor: its remote methods have no types."""
P = TypeVar("P", bound=Plan)
P_contra = TypeVar("P_contra", bound=Plan, contravariant=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """A dataset folder that a run owns: what a worker needs to write into it."""

    root: Path
    run_id: str


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The account of one shard, small enough to travel to the driver.

    `timings_s` are seconds by stage. `committed` is false when the network was down and nothing was written.
    """

    shard: int
    num_rows: int
    num_samples: int
    outcomes: dict[str, int]
    timings_s: dict[str, float] = field(default_factory=dict)
    committed: bool = True
    note: str = ""
    account: JsonObject = field(default_factory=dict)
    """What the kind counts beside rows: the clip windows of videos."""

    def __post_init__(self) -> None:
        # The conservation law: every row in ends in exactly one outcome.
        assert sum(self.outcomes.values()) == self.num_rows, (self.outcomes, self.num_rows)


class WriteShard(Protocol):
    """What a worker hands its rows to, where it does not know who commits them."""

    def __call__(
        self,
        claim: Claim,
        shard: int,
        rows: Generator[RowResult, None, None],
        kind: ShardKind,
        times: StageTimes,
        *,
        stats: JsonObject | None = None,
    ) -> ShardReport:
        """Take the rows in order, write their samples as they come, and commit the shard.

        Args:
            rows: closed at the end, whatever happens.
            times: of the stages within `rows`; `commit` is added.
            stats: further fields of the commit marker.

        Raises:
            LposekitError: the disk is full, or the folder belongs to a newer run.
        """
        ...


class AskActor(Protocol):
    """What a worker asks a pool's actors through, where it does not know what carries the words."""

    def __call__(self, actor: ActorHandle, method: str, argument: Any, what: str) -> Callable[[], Any]:
        """Send something to a method of an actor, now, and again if the actor dies with it; the call of what comes back
        waits for the answer. `what`: the actor and its work, for messages.

        Raises:
            LposekitError: the actor died each time, or is not started again; raised by the call.
        """
        ...


class Worker(Protocol[P_contra]):
    """Builds shards, one after the other; holds what is loaded once and used for many."""

    def build(self, plan: P_contra) -> ShardReport:
        """Build and commit one shard.

        Raises:
            LposekitError: the disk is full, or the folder belongs to a newer run.
        """
        ...


class SetupFailed(Exception):
    """What a worker or a pool's actor needs cannot be loaded: weights are missing, settings cannot be used."""

    def __init__(self, error: LposekitError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Pool:
    """Actors that all workers of a run share, such as pose models: `actor_class(*arguments)`, `size` of them.

    The class has a method `card()`: what the dataset card says about what the actor has loaded. `calls_at_once`: calls
    that an actor works on at the same time, each in a thread of its own.
    """

    actor_class: type
    arguments: tuple[object, ...]
    size: int
    num_cpus: float
    num_gpus: float
    calls_at_once: int = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What the run may use: of this machine, or of the whole cluster."""

    cpus: int
    gpus: int


class JobSettings(Protocol):
    """The settings that every kind of build has: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def input(self) -> tuple[str, ...]: ...
    @property
    def output(self) -> Path | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def ray_address(self) -> str | None: ...
    @property
    def min_success(self) -> float | None: ...
    @property
    def shard_attempts(self) -> int: ...
    @property
    def stall_minutes(self) -> float: ...
    @property
    def worker_memory_bytes(self) -> int: ...


class CardFacts(TypedDict, total=False):
    """Fields of `lposekit.shards.card.DatasetCard` that a recipe fills in; `extra`: what its kind alone states."""

    sample: bool
    keep_rule: JsonObject
    keypoint_format: str
    models: JsonObject | None
    extra: JsonObject


class Recipe(Protocol[P]):
    """One kind of dataset, and how it is made."""

    @property
    def kind(self) -> str:
        """What the card calls it: `image`, `video`, `poses`."""
        ...

    @property
    def settings(self) -> JobSettings: ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions the card records."""
        ...

    @property
    def fixed_packages(self) -> tuple[str, ...]:
        """Distributions whose versions decide the bytes: other ones do not continue a folder."""
        ...

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of images that one worker has on their way to the pool, at most and as a rule."""
        ...

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Look for everything that can be known to be wrong before anything is started; returns warnings.

        A dry run downloads nothing.

        Raises:
            UsageError: settings, input, blocklist or weights cannot be used.
            LposekitError: the input is damaged.
        """
        ...

    def fixed_facts(self) -> dict[str, JsonValue]:
        """What decides the bytes, JSON-ready: a folder is continued only where all of it is the same."""
        ...

    def card_facts(self) -> CardFacts:
        """What else the card says."""
        ...

    def dry_run_notes(self) -> Sequence[str]:
        """What a dry run says of the input."""
        ...

    def num_rows(self) -> int | None:
        """Rows of the whole input, where that is known without reading it."""
        ...

    def plans(self, skip: Container[int] = ()) -> Iterator[P]:
        """The shards of the input in order, without those in `skip`."""
        ...

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[P]:
        """The committed shards that have rows with these outcomes, to build those rows again.

        Raises:
            UsageError: the input, or what decides the bytes, changed since the folder was built.
        """
        ...

    def pool(self, machine: Machine) -> Pool | None:
        """The actors that its workers share, if any.

        Raises:
            UsageError: the machine lacks what the settings ask for.
        """
        ...

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> Worker[P]:
        """A worker, made in the process in which it will work; `number` tells it from the others.

        Args:
            pool: Ray handles of the pool's actors; None: the worker loads what they would have.

        Raises:
            LposekitError: what it needs cannot be loaded: ends the run, since it would fail everywhere.
        """
        ...


AnyRecipe: TypeAlias = Recipe[Any]
"""A recipe of some kind: its plans are for its own workers."""


def dataset_card(recipe: AnyRecipe, warnings: Sequence[str]) -> DatasetCard:
    """The card of a folder that a run begins or continues."""
    flat = flatten_settings(recipe.settings)
    changeable = changeable_settings(type(recipe.settings))
    return DatasetCard(
        kind=recipe.kind,
        lposekit=__version__,
        versions=card_versions(recipe.packages),
        settings=flat,
        settings_digest=settings_digest(recipe.settings, excluded=changeable),
        fixed={
            "settings": {name: value for name, value in flat.items() if name not in changeable},
            "versions": installed_versions(recipe.fixed_packages),
            **recipe.fixed_facts(),
        },
        warnings=list(warnings),
        **recipe.card_facts(),
    )
