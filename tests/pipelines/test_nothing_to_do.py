"""Contract of runs that would do nothing, or that cannot begin: they say so, and name what is there
and what would help."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lposekit.errors import UsageError
from lposekit.keypoints import KeepRule
from lposekit.shards.card import DatasetCard, claim_folder, read_card, refuse_other_folder
from lposekit.shards.layout import DatasetLayout
from pipelines.recipes import build_videos, retry
from pipelines.video.settings import BuildVideoSettings
from tests.support.execute_here import execute_here
from tests.support.videos import moving, write_video


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> BuildVideoSettings:
    """Of a folder that is built: three videos in two shards."""
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "videos").mkdir()
    for name in "abc":
        write_video(folder / "videos" / f"{name}.mp4", [moving(i) for i in range(30)], fps=25)
    return _built(BuildVideoSettings(input=(str(folder / "videos"),), output=folder / "d", rows_per_shard=2))


def _built(settings: BuildVideoSettings) -> BuildVideoSettings:
    assert build_videos(settings, execute=execute_here).notes == ()
    return settings


@pytest.mark.case(92)
def test_a_second_run_says_that_all_is_committed(settings: BuildVideoSettings) -> None:
    # Mutation: `notes` left out of the report.
    report = build_videos(settings, execute=execute_here)
    assert report.summary_lines()[0] == "nothing to do: all 2 shards are committed"
    assert (report.exit_code, report.new_rows) == (0, 0)


@pytest.mark.case(92)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_retry_of_no_row_says_so(settings: BuildVideoSettings, dry_run: bool) -> None:
    # Mutation: "would fetch 0 rows again".
    assert settings.output is not None
    lines = retry(settings.output, ["dns", "timeout"], dry_run=dry_run, execute=execute_here).summary_lines()
    assert lines[0] in ("nothing to do: no row ended in dns, timeout", "nothing to do: no row ended in timeout, dns")


@pytest.mark.case(92)
def test_a_dry_run_of_nothing_shows_no_empty_table(settings: BuildVideoSettings, tmp_path: Path) -> None:
    # Mutation: `_table` in any case: "outcome of 0 rows, 0 samples".
    new = tmp_path / "new"
    lines = build_videos(replace(settings, output=new), dry_run=True).summary_lines()
    assert lines == ["would build 3 videos in 2 shards", f"would write to {new} (0 shards committed already)"]
    lines = build_videos(settings, dry_run=True).summary_lines()
    assert lines[0] == "nothing to do: all 2 shards are committed"
    assert f"3 rows in {settings.output} so far:" in lines


@pytest.mark.case(92)
def test_a_dry_run_names_the_foreign_files_of_the_output_folder(settings: BuildVideoSettings, tmp_path: Path) -> None:
    # Mutation: no `refuse_other_folder` in the dry run.
    (tmp_path / "thesis.tex").write_text("dear reader")
    with pytest.raises(UsageError, match=r"holds 1 file of something else \(thesis\.tex\)"):
        build_videos(replace(settings, output=tmp_path), dry_run=True)
    with pytest.raises(UsageError, match="built with other settings"):
        build_videos(replace(settings, rows_per_shard=3), dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.case(91)
def test_the_total_of_videos_is_known(settings: BuildVideoSettings, tmp_path: Path) -> None:
    # Mutation: `num_rows` of videos is None.
    from pipelines.video.plan import count_videos

    assert count_videos(settings) == 3
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(json.dumps({"path": f"{i}.mp4", "caption": "c"}) + "\n" for i in range(7)))
    assert count_videos(replace(settings, input=(str(listed), *settings.input))) == 10


@pytest.mark.parametrize(
    ("settings_change", "rule_change", "hinted"),
    [
        ({"min_detected": 0.8}, {"min_detected": 0.8}, True),
        ({"min_detected": 0.8, "rows_per_shard": 5}, {"min_detected": 0.8}, False),
        ({"store_min_detected": 0.1}, {}, False),
    ],
)
@pytest.mark.case(91)
def test_where_only_a_keep_rule_differs_refilter_is_named(
    tmp_path: Path, settings_change: dict[str, object], rule_change: dict[str, object], hinted: bool
) -> None:
    # Mutations: no hint; `any` in place of `all` in `_refilter_hint`.
    layout = DatasetLayout(tmp_path / "d")
    layout.meta.mkdir(parents=True)
    rule = {"min_detected": 0.5, "person_rule": "any"}
    first = {"min_detected": 0.5, "store_min_detected": None, "rows_per_shard": 9}
    claim_folder(layout, DatasetCard(fixed={"settings": first, "keep_rule": rule}))
    other = DatasetCard(fixed={"settings": {**first, **settings_change}, "keep_rule": {**rule, **rule_change}})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="built with other settings") as refused:
        refuse_other_folder(layout, other)
    hint = f"`lposekit refilter {layout.root} --output NEW --min-detected VALUE`"
    assert (hint in str(refused.value)) is hinted
    assert read_card(layout).fixed == {"settings": first, "keep_rule": rule}


def test_the_settings_of_the_keep_rule_are_all_known() -> None:
    from lposekit.shards.card import KEEP_SETTINGS

    assert {name.rpartition(".")[2] for name in KEEP_SETTINGS} == set(KeepRule.__dataclass_fields__)
