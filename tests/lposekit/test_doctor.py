"""Contract of `lposekit doctor`: one line a check, a fix with every line that is not fine, exit code 1 when something
stops a command from working, and nothing on the machine is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lposekit.cli import main
from lposekit.doctor import (
    PARTS,
    check_disk,
    check_mmcv,
    check_packages,
    check_python,
    check_ray,
    check_weights,
    examine,
    install_command,
    pins_path,
    read_pins,
)


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 9), "bad"), ((3, 11, 0), "ok"), ((3, 12, 4), "ok"), ((3, 13, 0), "bad")]
)
def test_python_that_does_not_work_is_told_with_the_one_that_does(version: tuple[int, int, int], state: str) -> None:
    check = check_python(version)
    assert check.state == state
    assert ("3.11 or 3.12" in check.fix) is (state == "bad")


def test_pins_that_ship_name_what_the_commands_need() -> None:
    pins = read_pins(pins_path())
    assert {name for needed in PARTS.values() for name in needed} <= pins.keys()


def test_missing_and_other_versions_are_named_with_the_command_that_mends_them() -> None:
    # Mutation tried: comparing only presence leaves numpy 1.0 unnamed.
    pins = {"numpy": "2.4.6", "ray": "2.60.0", "torch": "2.13.0"}
    found = {"numpy": "1.0", "torch": "2.13.0+cpu"}
    whole, *parts = check_packages(pins, found.get)
    assert (whole.state, whole.found) == (
        "note",
        "1 of 3 as pinned; other versions: numpy 1.0 (pinned 2.4.6); missing: ray",
    )
    assert whole.fix == install_command()
    assert "--only-binary=:all: --no-deps -r" in whole.fix
    build = next(check for check in parts if check.name == "build-laion-pose")
    assert build.state == "bad"
    assert build.found.startswith("missing ray")


def test_complete_set_is_fine() -> None:
    pins = read_pins(pins_path())
    [whole] = check_packages(pins, pins.get)
    assert (whole.state, whole.fix) == ("ok", "")


def test_mmcv_without_operators_is_fine_because_of_the_stand_in() -> None:
    assert check_mmcv().state == "ok"


def test_ray_tokens_are_explained_until_one_is_set(tmp_path: Path) -> None:
    without = check_ray({}, tmp_path)
    assert without.state == "note"
    assert "ray get-auth-token --generate" in without.fix
    assert check_ray({"RAY_AUTH_TOKEN": "x"}, tmp_path).state == "ok"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert check_ray({}, tmp_path).state == "ok"


def test_weights_say_where_they_lie_where_they_come_from_or_that_they_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPOSEKIT_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rtmdet_nano_320_coco-person.pth").write_bytes(b"not the weights")
    checks = {check.name: check for check in check_weights(tmp_path)}
    assert checks["weights rtmdet-nano-rebuilt"].state == "bad"
    assert checks["weights hrnet-w48"].state == "note"
    assert "https://" in checks["weights hrnet-w48"].found
    assert "lposekit weights --fetch hrnet-w48" in checks["weights hrnet-w48"].fix
    assert "LPOSEKIT_WEIGHTS" in checks["weights tinypose"].fix


def test_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    assert str(tmp_path) in check_disk(tmp_path / "not" / "yet").found


def test_every_line_that_is_not_fine_says_what_to_do_or_that_nothing_is_to_be_done(tmp_path: Path) -> None:
    for check in examine(tmp_path):
        assert "\n" not in check.line()
        assert check.state != "bad" or check.fix or check.name.startswith("weights")


def test_exit_code_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = main(["doctor", "--json", "--output", str(tmp_path)])
    checks = json.loads(capsys.readouterr().out)
    assert {"name", "state", "found", "fix"} == set(checks[0])
    assert code == (1 if any(check["state"] == "bad" for check in checks) else 0)
    assert list(tmp_path.iterdir()) == []
