"""Contract of the settings: each source is checked on its own; a wrong name or value is told with file, key, value,
what is allowed and the nearest right name; the first source that names a setting wins; the digest covers all but what
is excluded by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Interval

from lposekit.errors import UsageError
from lposekit.setting_values import check_values
from lposekit.settings import (
    Layer,
    environment_layer,
    flatten_settings,
    merge,
    preset_path,
    read_toml,
    settings_digest,
    stored_settings,
    table_layer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    threads: int = 8
    rate: float = 0.5
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    FORMER_GROUPS: ClassVar[Mapping[str, str]] = {"inside": "inner"}

    name: str = "x"
    output: Path | None = None
    rule: Literal["any", "main"] = "any"
    limit: float | None = 0.9
    share: Annotated[float, Interval(ge=0, le=1)] = 0.5
    private: Annotated[bool, "flag only"] = False
    inner: Inner = field(default_factory=Inner)
    slow: Inner = field(default_factory=lambda: Inner(threads=2))


def from_table(**table: Any) -> Example:
    return merge(Example, [table_layer(Example, table, "lposekit.toml [example]")])


def from_environment(**variables: str) -> Example:
    environ = {f"LPOSEKIT_{name}": value for name, value in variables.items()}
    return merge(Example, [environment_layer(Example, environ)])


def test_nothing_named_gives_the_defaults_of_each_place() -> None:
    # Mutation tried: taking a group's defaults from its class loses slow.threads = 2.
    assert merge(Example, []) == Example()
    assert merge(Example, []).slow.threads == 2
    assert from_table(slow={"rate": 1.5}).slow == Inner(threads=2, rate=1.5)


def test_table_gives_typed_values() -> None:
    settings = from_table(output="a b/'c'", limit=1, inner={"threads": 3, "files": ["x", "y"]}, slow={"files": "one"})
    assert settings == Example(
        output=Path("a b/'c'"),
        limit=1.0,
        inner=Inner(threads=3, files=(Path("x"), Path("y"))),
        slow=Inner(threads=2, files=(Path("one"),)),
    )


def test_environment_gives_typed_values() -> None:
    settings = from_environment(
        NAME="4", OUTPUT="a b", RULE="main", INNER__THREADS="3", INNER__FILES='["x", "y"]', SLOW__FILES="o ne"
    )
    assert (settings.name, settings.output, settings.rule) == ("4", Path("a b"), "main")
    assert settings.inner == Inner(threads=3, files=(Path("x"), Path("y")))
    assert settings.slow.files == (Path("o ne"),)


def test_the_former_name_of_a_group_is_still_understood() -> None:
    """Mutation tried: `_present_name` returns the name as it is: red."""
    assert from_table(inside={"threads": 3}).inner.threads == 3
    assert from_environment(INSIDE__THREADS="3").inner.threads == 3
    with pytest.raises(UsageError, match=r"inside\.threads = \"many\""):
        from_table(inside={"threads": "many"})


def test_none_is_said_in_words() -> None:
    assert from_table(limit="none").limit is None
    assert from_environment(LIMIT="None").limit is None
    assert from_table(name="none").name == "none"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"nmae": "y"}, r"lposekit.toml \[example\] nmae = \"y\": there is no such setting. Did you mean name\?"),
        ({"threads": 3}, r"threads = 3: there is no such setting. Did you mean inner.threads\?"),
        ({"inner": {"thraeds": 3}}, r"inner.thraeds = 3: there is no such setting. Did you mean inner.threads\?"),
        ({"inner": {"threads": "4"}}, r"threads = \"4\": Input should be a valid integer. Allowed: whole number\."),
        ({"inner": {"threads": True}}, "inner.threads = true: .*Allowed: whole number"),
        ({"rule": "mian"}, 'rule = "mian": .*Allowed: one of: any, main'),
        ({"limit": "much"}, 'limit = "much": .*Allowed: number or none'),
        ({"share": 2.0}, r"share = 2.0: Input .*1\. Allowed: number >= 0 and <= 1\."),
        ({"private": True}, r"private = true: a flag only, refused in files and environment. Give --private"),
    ],
)
def test_wrong_table_names_key_value_and_what_is_allowed(table: dict[str, Any], message: str) -> None:
    # Mutation tried: dropping the strict mode lets threads = true and "4" through.
    with pytest.raises(UsageError, match=message):
        from_table(**table)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"INNER__THRAEDS": "3"}, r"LPOSEKIT_INNER__THRAEDS='3': .*Did you mean LPOSEKIT_INNER__THREADS\?"),
        ({"INNER__THREADS": "many"}, r"LPOSEKIT_INNER__THREADS='many': .*Allowed: whole number"),
        ({"PRIVATE": "true"}, "LPOSEKIT_PRIVATE='true': a flag only"),
    ],
)
def test_wrong_variable_names_itself_and_the_nearest(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_environment(**variables)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        from_table(nmae="y", rule="z")
    assert len(str(caught.value).splitlines()) == 2


def test_variables_of_other_commands_and_reserved_ones_are_passed_over() -> None:
    environ = {"LPOSEKIT_STAGE": "2", "LPOSEKIT_WEIGHTS": "w", "LPOSEKIT_TEST_X": "1", "PATH": "/bin"}
    assert environment_layer(Example, environ, elsewhere=lambda: ["stage"]).values == {}
    with pytest.raises(UsageError, match="LPOSEKIT_STAGE"):
        environment_layer(Example, environ)


def test_earlier_layer_wins_setting_by_setting() -> None:
    high = Layer("high", {"name": "high", "inner.threads": 1})
    low = Layer("low", {"name": "low", "inner.rate": 0.1})
    assert merge(Example, [high, low]) == Example(name="high", inner=Inner(threads=1, rate=0.1))


def test_stored_settings_come_back_but_for_what_only_a_flag_may_carry() -> None:
    # Mutations tried: leaving values of None out (limit would be 0.9 again); keeping flag-only ones (refused).
    settings = Example(output=Path("a/b"), limit=None, private=True, inner=Inner(files=(Path("x"),)))
    stored = json.loads(json.dumps(flatten_settings(settings)))
    assert stored_settings(Example, stored, "card") == replace(settings, private=False)
    with pytest.raises(UsageError, match="card nmae"):
        stored_settings(Example, {"nmae": "x"}, "card")


def test_values_from_flags_are_held_against_the_limits_too() -> None:
    with pytest.raises(UsageError, match=r"--share 2.0: Input should be less than or equal to 1"):
        check_values(Example(share=2.0))
    check_values(Example())


def test_settings_built_in_code_are_taken_as_they_are_typed() -> None:
    # Mutation tried: without strict=True, "3" passes for a whole number.
    with pytest.raises(UsageError, match=r"--inner.threads 3: Input should be a valid integer"):
        check_values(Example(inner=Inner(threads="3")))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    first: Annotated[float, Interval(ge=0)] = 0.0
    last: float | None = None

    def problems(self) -> Iterable[tuple[str, str]]:
        if self.last is not None and self.last < self.first:
            yield "first", f"at most --span.last, which is {self.last}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled:
    output: Path | None = None
    names: tuple[str, ...] = ()
    span: Span = field(default_factory=Span)

    def problems(self) -> Iterable[tuple[str, str]]:
        if len(self.names) > 1:
            yield "names", "one at most."


def test_rules_between_settings_are_told_together_with_the_ranges_of_the_values() -> None:
    # Mutations tried: groups not asked for their rules; a rule told beside the range of the same setting.
    with pytest.raises(UsageError) as caught:
        check_values(Ruled(names=("a", "b"), span=Span(first=2, last=1)), required={"output": "name a folder."})
    assert str(caught.value).splitlines() == [
        "--output none: name a folder.",
        "--names a b: one at most.",
        "--span.first 2: at most --span.last, which is 1.",
    ]
    with pytest.raises(UsageError) as caught:
        check_values(Ruled(span=Span(first=-1.0, last=-2.0)))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("--span.first -1.0: Input should be greater than or equal to 0")
    check_values(Ruled(output=Path(), span=Span(first=1, last=2)), required={"output": "name a folder."})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nx = 1\n", r"unknown table 'trian'. Did you mean train\?"),
        ("pre-set = 'x'\n", r"unknown key 'pre-set'. Did you mean preset\?"),
        ("[train\n", r"not valid TOML: .*line 1"),
        ("x = '\xff'", "not valid TOML"),
    ],
)
def test_unreadable_settings_file_is_a_usage_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lposekit.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message) as caught:
        read_toml(path, ["train", "view"])
    assert str(path) in str(caught.value)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean quickstart\? There are: followyourpose, quickstart"):
        preset_path("quikstart")
    with pytest.raises(UsageError, match="_project"):
        preset_path("_project")


# --- identity --------------------------------------------------------------------------------------------------------

EXCLUDED = frozenset({"name", "slow"})


def test_digest_ignores_the_excluded_and_nothing_else() -> None:
    # Mutation tried: hashing only the names, or str(value) of a float cut to 6 digits, turns this red.
    base = settings_digest(Example(), excluded=EXCLUDED)
    assert settings_digest(Example(name="other", slow=Inner(rate=9.0)), excluded=EXCLUDED) == base
    for changed in (
        Example(share=0.5 + 2**-50),
        Example(limit=None),
        Example(output=Path("x")),
        Example(inner=Inner(files=(Path("a"),))),
    ):
        assert settings_digest(changed, excluded=EXCLUDED) != base


def test_digest_is_the_same_from_a_card_as_from_the_settings() -> None:
    settings = Example(output=Path("x"), inner=Inner(files=(Path("a"),)))
    card = flatten_settings(settings)
    assert settings_digest(card, excluded=EXCLUDED) == settings_digest(settings, excluded=EXCLUDED)


def test_excluding_a_setting_that_does_not_exist_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="no_such"):
        settings_digest(Example(), excluded=frozenset({"no_such"}))
