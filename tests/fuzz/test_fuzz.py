"""Contract of `make fuzz`: sound files are read, changed ones read or refused, and what else happens is kept and told.
Files that a run once found are read again here, for ever.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lposekit.sandbox.sandbox import SandboxCrashed
from tests.fuzz import run
from tests.fuzz.mutate import mutated
from tests.fuzz.run import FOUND, Fuzzer, fuzz, main
from tests.fuzz.targets import TARGETS

SLOW = {"image_dataset", "clip_dataset", "video"}
KEPT = sorted(path for path in FOUND.iterdir() if path.name[0] != ".")


def fuzzer_of(target: str, folder: Path) -> Fuzzer:
    return Fuzzer(target, folder.resolve())


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.more if name in SLOW else ()) for name in TARGETS]
)
def test_every_reader_reads_the_sound_files_and_ends_on_changed_ones(tmp_path: Path, target: str) -> None:
    # Mutation tried: a reader that raises KeyError -> red.
    fuzzer, source = fuzzer_of(target, tmp_path), random.Random(target)
    try:
        sound = [fuzzer.ask(name, data) for name, data in fuzzer.seeds.items()]
        others = list(fuzzer.seeds.values())
        changed = [fuzzer.ask(name, mutated(data, others, source)) for name, data in list(fuzzer.seeds.items())[:8]]
    finally:
        fuzzer.close()
    assert set(sound + changed) <= {"read", "refused"}
    assert sound.count("read") >= len(sound) // 3


@pytest.mark.case(36, 75)
@pytest.mark.parametrize("path", KEPT, ids=[path.name for path in KEPT])
def test_a_file_that_was_found_once_is_read_or_refused_now(tmp_path: Path, path: Path) -> None:
    # Mutation tried: `metadata_errors` left out of `open_clip`, `codec_context` not looked at -> red.
    target, _, name = path.name.split("-", 2)
    fuzzer = fuzzer_of(target, tmp_path)
    try:
        assert fuzzer.ask(name.replace("+", "/"), path.read_bytes()) in ("read", "refused")
    finally:
        fuzzer.close()


def test_what_else_happens_is_kept_once_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation tried: `_keep` left out -> red.
    def ask(self: Fuzzer, name: str, data: bytes) -> str:
        if len(data) % 2:
            raise SandboxCrashed("target: killed by SIGSEGV")
        return "read"

    found = tmp_path / "found"
    found.mkdir()
    monkeypatch.setattr(Fuzzer, "ask", ask)
    assert main(["--minutes", "0.01", "--seed", "1", "--target", "address_list", "--found", str(found)]) == 1
    [kept] = found.iterdir()
    assert kept.name.startswith("address_list-")
    told = capsys.readouterr().out
    assert f"{kept.name}: killed by SIGSEGV" in told
    assert "1 findings" in told


def test_a_seed_gives_the_same_files_again() -> None:
    seeds = {"a": bytes(range(200)), "b": b'{"a": 1, "b": "text"}' * 9}
    first, second = ([*zip(range(60), run._files(seeds, random.Random(7)), strict=False)] for _ in range(2))
    assert first == second
    assert len({data for _, (_, data) in first}) > 50


def test_a_run_without_findings_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = fuzz("stored_image", 1.0, 3, tmp_path, tmp_path.resolve())
    assert not tally.findings
    assert tally.answers["read"] > 0
