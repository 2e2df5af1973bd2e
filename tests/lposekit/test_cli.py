"""Contract of the console script: fast help without heavy imports, exit codes that mean what the docs say, one line for
every error, machine-readable output on request, settings from the right place, and quickstart only when no input is
named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lposekit import cli
from lposekit.commands.flags import Loaded, load
from lposekit.commands.registry import COMMANDS, TABLES
from lposekit.errors import LimitsError, LposekitError, UsageError
from lposekit.setting_values import flag, leaves
from lposekit.settings import preset_path, read_toml, table_layer
from tests.support.fixtures import REPOSITORY

TIMEOUT_S = 60.0
TRACE_MODULES = "import sys; from lposekit.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"


def lposekit(*arguments: str | Path, folder: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lposekit", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LPOSEKIT_")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(REPOSITORY), **environ},
        timeout=TIMEOUT_S,
        check=False,
    )


def loaded(name: str, *argv: str, folder: Path, **environ: str) -> Loaded[Any]:
    command = COMMANDS[name]
    return load(command, command.load_settings_class(), argv, environ=environ, folder=folder)


# --- the script ------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    # Mutation tried: `import pyarrow` at the top of lposekit/settings.py turns this red.
    done = subprocess.run(
        [sys.executable, "-c", TRACE_MODULES],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    loaded_modules = set(done.stderr.split())
    assert not loaded_modules & {"torch", "ray", "pyarrow", "cv2", "numpy", "mmpose", "diffusers", "pydantic"}


def test_help_answers_in_under_a_second_of_cpu_time() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert lposekit("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_without_torch_or_ray(name: str) -> None:
    script = (
        "import sys\nfrom lposekit.cli import main\n"
        f"try: main(['{name}', '--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'ray', 'mmpose', 'diffusers', 'img2dataset'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=TIMEOUT_S, check=False
    )
    assert f"lposekit {name}" in done.stdout
    assert done.stderr.strip() == "[]"


def test_version_is_told() -> None:
    assert re.fullmatch(r"lposekit \d+\.\d+\.\d+\n", lposekit("--version").stdout)


def test_unknown_command_is_wrong_usage_and_names_the_nearest() -> None:
    done = lposekit("verfy")
    assert done.returncode == 2
    assert done.stderr == "lposekit: there is no command 'verfy'. Did you mean verify? `lposekit --help` lists them.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        # mutation: a missing card is no usage error
        pytest.param(["verify", "nowhere"], 2, "no dataset card", marks=pytest.mark.case(93)),
        pytest.param(["refilter", "nowhere", "--output", "d"], 2, "no dataset card", marks=pytest.mark.case(93)),
        pytest.param(["retry", "nowhere", "--only", "dns"], 2, "no dataset card", marks=pytest.mark.case(93)),
        pytest.param(["cache-latents", "nowhere", "--base", "tiny"], 2, "no dataset card", marks=pytest.mark.case(93)),
        pytest.param(
            ["train", "--stage", "1", "--data", "nowhere", "--output", "r", "--base", "tiny"],
            2,
            "no dataset card",
            marks=pytest.mark.case(93),
        ),
        (["verify"], 2, "no folder is named"),
        (["build-laion-pose", "--input", "a.csv"], 2, "no output is named. Give --output DIR"),
        (["build-laion-pose", "--input", "nowhere.csv", "--output", "d"], 2, "no such file or folder"),
        (["build-laion-pose", "--rows-per-shrad", "3"], 2, "--rows-per-shard"),
        (["build-laion-pose", "--person-rule", "some"], 2, "one of: any, main, all, pooled"),
        (["train", "--preset", "nope"], 2, "preset 'nope' does not exist"),
        (["view", "."], 2, "neither a dataset folder"),
    ],
)
def test_wrong_usage_and_failed_work_have_their_exit_codes(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = lposekit(*arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LposekitError("a"), 1, "lposekit: a"),
        (UsageError("a"), 2, "lposekit: a"),
        (LimitsError("a"), 3, "lposekit: a"),
        (KeyboardInterrupt(), 130, "lposekit: interrupted"),
        (ZeroDivisionError("a"), 1, "lposekit: unexpected ZeroDivisionError: a. Run it again with --debug"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_every_error_ends_as_a_line_and_a_code_and_with_debug_as_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
    debug: bool,
) -> None:
    # Mutation tried: removing the KeyboardInterrupt branch lets it escape.
    def fail(_: list[str]) -> int:
        raise error

    monkeypatch.setattr("lposekit.commands.verify.run", fail)
    assert cli.main(["verify", *(["--debug"] if debug else [])]) == code
    written = capsys.readouterr().err
    assert line.split(" Run it")[0] in written
    assert ("Traceback" in written) is debug


@pytest.mark.parametrize("name", ["trainer", "pipelines"])
def test_foreign_package_that_hides_ours_is_refused(tmp_path: Path, name: str) -> None:
    # Mutation tried: comparing only whether the package exists lets the foreign one through.
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign code ran')")
    done = lposekit("verify", tmp_path, folder=Path("/"), PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert done.returncode == 2
    assert f"the package '{name}' at {tmp_path / name} is not the one of lposekit" in done.stderr
    assert "foreign code ran" not in done.stderr


def test_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    script = f"{sys.executable} -m lposekit --help | true"
    done = subprocess.run(
        script, shell=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=TIMEOUT_S, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_json_goes_to_standard_output_alone_in_any_locale(tmp_path: Path) -> None:
    folder = tmp_path / "d\u00e4ta 'x'"
    folder.mkdir()
    done = lposekit("init", "--folder", folder, "--json", LANG="C", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == str(folder / "lposekit.toml")
    assert "settings:" in done.stderr


# --- where settings come from ----------------------------------------------------------------------------------------


def test_flags_win_over_environment_over_file_over_preset(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        "[build-laion-pose]\nworkers = 1\nrows_per_shard = 1\nmin_detected = 0.1\nmax_rows = 1\n"
    )
    (tmp_path / "lposekit.toml").write_text("[build-laion-pose]\nworkers = 2\nrows_per_shard = 2\nmin_detected = 0.2\n")
    result = loaded(
        "build-laion-pose",
        *("--input", "a.csv", "--output", "d", "--workers", "4", "--preset", str(tmp_path / "p.toml")),
        folder=tmp_path,
        LPOSEKIT_WORKERS="3",
        LPOSEKIT_ROWS_PER_SHARD="3",
    )
    settings = result.settings
    assert (settings.workers, settings.rows_per_shard, settings.min_detected, settings.max_rows) == (4, 3, 0.2, 1)
    for source in ("--workers", "LPOSEKIT_ROWS_PER_SHARD", "lposekit.toml [build-laion-pose]", "p.toml"):
        assert source in result.sources


# mutation: `parse_words` without `is_none`, and `parse_text` likewise: exit 2
@pytest.mark.parametrize("word", ["none", "None"])
def test_none_means_no_value_in_a_flag_as_in_a_file(word: str, tmp_path: Path) -> None:
    for words in (("--pose.duplicate-oks", word), (f"--pose.duplicate-oks={word}",)):
        call = ("--input", "x.csv", "--output", "d", *words)
        assert loaded("build-laion-pose", *call, folder=tmp_path).settings.pose.duplicate_oks is None
    # where it is a value of its own, it stays one
    call = ("--stage", "2", "--data", "d", "--output", "r", "--base", "tiny", "--pose-encoder", word)
    assert loaded("train", *call, folder=tmp_path).settings.pose_encoder == word


def test_stage_has_a_table_of_its_own_over_the_common_one(tmp_path: Path) -> None:
    (tmp_path / "lposekit.toml").write_text(
        '[train]\nbase = "b"\nmax_steps = 5\n[train-stage-1]\ndata = ["one"]\noutput = "o1"\n'
        '[train-stage-2]\ndata = ["two"]\noutput = "o2"\nmax_steps = 7\n'
    )
    first = loaded("train", folder=tmp_path).settings
    second = loaded("train", "--stage", "2", folder=tmp_path).settings
    assert (first.data, first.output, first.max_steps) == ((Path("one"),), Path("o1"), 5)
    assert (second.data, second.output, second.max_steps, second.base) == ((Path("two"),), Path("o2"), 7, "b")


@pytest.mark.case(67)
@pytest.mark.parametrize(
    ("name", "setting"),
    [("build-laion-pose", "allow_private_addresses"), ("build-video-shards", "allow_outside_paths")],
)
def test_what_opens_a_network_or_a_disk_is_allowed_by_flag_only(tmp_path: Path, name: str, setting: str) -> None:
    # Mutation tried: without the flag-only check, or the mark, both of these build from private addresses.
    flags = ("--input", "a.csv", "--output", "d")
    flag, variable = f"--{setting.replace('_', '-')}", f"LPOSEKIT_{setting.upper()}"
    assert getattr(loaded(name, *flags, flag, folder=tmp_path).settings, setting) is True
    with pytest.raises(UsageError, match=rf"{variable}.*flag only"):
        loaded(name, *flags, folder=tmp_path, **{variable: "1"})
    (tmp_path / "lposekit.toml").write_text(f"[{name}]\n{setting} = true\n")
    with pytest.raises(UsageError, match=rf"lposekit.toml \[{name}\] {setting}.*flag only"):
        loaded(name, *flags, folder=tmp_path)


def test_variable_that_no_command_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"LPOSEKIT_WROKERS.*Did you mean LPOSEKIT_WORKERS"):
        loaded("build-laion-pose", folder=tmp_path, LPOSEKIT_WROKERS="3")
    assert loaded("verify", "d", folder=tmp_path, LPOSEKIT_WORKERS="3").settings.data == Path("d")


# --- quickstart ------------------------------------------------------------------------------------------------------

QUICKSTART_OUTPUTS = {
    ("build-laion-pose",): "quickstart/laion-pose",
    ("build-video-shards",): "quickstart/video-shards",
    ("train",): "quickstart/stage1",
    ("train", "--stage", "2"): "quickstart/stage2",
}


@pytest.mark.parametrize("call", QUICKSTART_OUTPUTS)
def test_without_input_the_quickstart_runs_and_its_first_line_says_so(
    tmp_path: Path, call: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lposekit"):
        result = loaded(*call, folder=tmp_path)
    assert result.quickstart is True
    assert str(result.settings.output) == QUICKSTART_OUTPUTS[call]
    assert caplog.messages[0].startswith(f"quickstart: no input is named, so {call[0]} runs on sample data")
    assert QUICKSTART_OUTPUTS[call] in caplog.messages[0]


def test_flags_go_over_the_quickstart(tmp_path: Path) -> None:
    settings = loaded("build-laion-pose", "--output", "elsewhere", "--workers", "1", folder=tmp_path).settings
    assert (str(settings.output), settings.workers, settings.detector) == ("elsewhere", 1, "rtmdet-nano-rebuilt")


INPUTS = {"build-laion-pose": "input", "build-video-shards": "input", "train": "data"}


@pytest.mark.parametrize("source", ["flag", "environment", "file", "preset"])
@pytest.mark.parametrize("name", INPUTS)
def test_quickstart_values_never_reach_a_run_that_names_its_input(tmp_path: Path, name: str, source: str) -> None:
    # Mutation tried: deciding from the flags alone turns the other three sources red.
    (tmp_path / "mine.toml").write_text(f'[{name}]\n{INPUTS[name]} = ["x"]\n')
    flags: tuple[str, ...] = ("--output", "d")
    environ: dict[str, str] = {}
    if source == "flag":
        flags += (f"--{INPUTS[name]}", "x")
    elif source == "environment":
        environ[f"LPOSEKIT_{INPUTS[name].upper()}"] = "x"
    elif source == "file":
        (tmp_path / "mine.toml").rename(tmp_path / "lposekit.toml")
    else:
        flags += ("--preset", str(tmp_path / "mine.toml"))
    result = loaded(name, *flags, folder=tmp_path, **environ)
    command = COMMANDS[name]
    assert result.quickstart is False
    quickstart = read_toml(preset_path("quickstart"), TABLES)
    values = table_layer(command.load_settings_class(), quickstart[name], "quickstart").values
    defaults = table_layer(command.load_settings_class(), {}, "").values
    assert defaults == {}
    untouched = command.load_settings_class()()
    for setting in values.keys() - {"output", INPUTS[name]}:
        found, default = result.settings, untouched
        for part in setting.split("."):
            found, default = getattr(found, part), getattr(default, part)
        assert found == default, setting


def test_quickstart_preset_and_an_input_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used together with an input"):
        loaded("build-laion-pose", "--preset", "quickstart", "--input", "x", "--output", "d", folder=tmp_path)
    with pytest.raises(UsageError, match="no input is named, and the preset followyourpose does not name one"):
        loaded("build-laion-pose", "--preset", "followyourpose", folder=tmp_path)


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["quickstart", "followyourpose", "_project"])
def test_every_table_of_every_preset_is_valid(preset: str) -> None:
    path = REPOSITORY / "lposekit" / "presets" / f"{preset}.toml"
    content = read_toml(path, TABLES)
    owners = {table: command for command in COMMANDS.values() for table in command.tables}
    for table in content.keys() - {"preset"}:
        table_layer(owners[table].load_settings_class(), content[table], f"{path.name} [{table}]")


def test_followyourpose_is_the_setting_of_the_paper(tmp_path: Path) -> None:
    flags = ("--preset", "followyourpose", "--output", "d")
    images = loaded("build-laion-pose", *flags, "--input", "x", folder=tmp_path).settings
    assert (images.pose_model, images.min_detected, images.person_rule) == ("hrnet-w48", 0.5, "any")
    assert images.filter.max_punsafe == 0.5
    first = loaded("train", *flags, "--data", "x", folder=tmp_path).settings
    second = loaded("train", *flags, "--data", "x", "--stage", "2", folder=tmp_path).settings
    assert (first.max_steps, second.max_steps) == (100_000, 50_000)
    assert (first.image.size, second.image.size, second.clip.frames) == (512, 512, 8)
    assert first.base == second.base == "CompVis/stable-diffusion-v1-4"


# --- flags that people rely on ---------------------------------------------------------------------------------------

COMMON = "--preset --dry-run --json"
BUILD = "--input --output --rows-per-shard --workers --allow-private-addresses --ray-address --min-success"
PLAIN_FLAGS = {
    "build-laion-pose": f"{BUILD} --min-detected --person-rule --detector --pose-model --weights-dir --caption-column "
    f"--url-column --store-min-detected {COMMON}",
    "build-video-shards": f"{BUILD} {COMMON}",
    "train": "--stage --data --output --base --pose-encoder --max-steps --batch-size --seed --resume --optim.lr "
    f"{COMMON}",
    "retry": "--only --outcome --dry-run --json",
    "refilter": "--output --min-detected --person-rule --dry-run --json",
    "view": "--public --json",
    "verify": "--json",
    "doctor": "--json",
    "init": "--folder",
}


def help_of(name: str, word: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([name, word])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PLAIN_FLAGS)
def test_flags_that_people_rely_on_keep_their_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = set(re.findall(r"--[\w.-]+", help_of(name, "--help-all", capsys)))
    assert set(PLAIN_FLAGS[name].split()) - words == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_lists_and_explains_every_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Mutations: a setting without its docstring (one of a nested group, too); `_by_group` without its groups.
    page = help_of(name, "--help-all", capsys)
    blocks = re.split(r"^  (?=--)", page, flags=re.MULTILINE)[1:]
    # Of each flag its name and form, then two spaces or a line's end, then what it means, then its default.
    meaning = {block.split()[0].rstrip(","): re.split(r" {2,}|\n", block, maxsplit=1)[1] for block in blocks}
    assert len(meaning) >= 3
    assert [given for given, text in meaning.items() if not text.strip() or text.strip().startswith("(")] == []
    assert {flag(setting) for setting in leaves(COMMANDS[name].load_settings_class())} <= meaning.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_two_screens_and_speaks_plain_words(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations: `main` of train left out of the registry: 223 lines; `str(value)` of None: "default: None".
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = help_of(name, "--help", capsys), help_of(name, "--help-all", capsys)
    assert len(short.splitlines()) <= 60
    assert not re.search(r"[{}│╭]|\bNone\b|\bSTR\b|True|False", short + whole)
    assert max(len(line) for line in short.splitlines() if not line.startswith("example:")) <= 80
    hidden = set(re.findall(r"^  (--[\w.-]+)", whole, re.MULTILINE)) - set(re.findall(r"^  (--[\w.-]+)", short, re.M))
    told = re.search(r"^(\d+) more flags: `lposekit (\S+) --help-all`\.$", short, re.MULTILINE)
    assert (int(told[1]) if told else 0) == len(hidden)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_registry_says_of_settings_names_settings(name: str) -> None:
    # Mutation: "optim.rl" among the main ones of train: help left it out without a word.
    command, known = COMMANDS[name], leaves(COMMANDS[name].load_settings_class())
    assert {*command.main, *command.needed} <= known.keys()
    assert not command.main or set(command.needed) <= set(command.main)
    assert len(command.main) <= 12


def test_defaults_in_help_are_those_that_apply_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation: the class's own defaults shown.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lposekit.toml").write_text("[build-laion-pose]\nrows_per_shard = 77\n")
    assert "(default: 77)" in help_of("build-laion-pose", "--help", capsys)


# mutations: `nearest` left out of parse_flags; problems raised one by one
def test_every_wrong_flag_is_told_with_the_nearest_and_what_is_allowed(tmp_path: Path) -> None:
    words = ("--rows-per-shrad", "3", "--workers", "x", "--person-rule", "some", "--dedup", "--max-rows")
    with pytest.raises(UsageError) as wrong:
        loaded("build-laion-pose", *words, folder=tmp_path)
    told = str(wrong.value).splitlines()
    assert told[0] == "there is no flag --rows-per-shrad. Did you mean --rows-per-shard?"
    assert re.match(r"--workers x: .*Allowed: whole number >= 1 or none\.", told[1])
    assert re.match(r"--person-rule some: .*Allowed: one of: any, main, all, pooled\.", told[2])
    assert told[3] == "there is no flag --dedup. Did you mean --fetch.dedup?"
    assert told[4] == "--max-rows: a value is missing after this flag."
    assert "`lposekit build-laion-pose --help`" in told[5]
    assert "None" not in str(wrong.value)
    with pytest.raises(UsageError, match=r"verify: 'b' belongs to no flag"):
        loaded("verify", "a", "b", folder=tmp_path)


def test_lists_switches_and_numbers_are_read_from_flags(tmp_path: Path) -> None:
    # Mutation: a list flag that is given twice keeps its last words only.
    words = ("--data", "a", "b", "--output=r", "--data", "c", "--base", "tiny", "--optim.betas", "0.5", "0.6")
    words += ("--watch.no-tensorboard", "--compute.compile", "--loader.weights", "1", "0.5", "2", "--seed", "3")
    settings = loaded("train", *words, "--stage", "2", "--model.cross_frame", "true", folder=tmp_path).settings
    assert settings.data == (Path("a"), Path("b"), Path("c"))
    assert (settings.stage, settings.seed, settings.output) == (2, 3, Path("r"))
    assert (settings.optim.betas, settings.loader.weights) == ((0.5, 0.6), (1.0, 0.5, 2.0))
    assert (settings.watch.tensorboard, settings.compute.compile, settings.model.cross_frame) == (False, True, True)
    # Mutation: of a switch that may be left open, the bare flag needs a value.
    for words, value in ((("--compute.no-compile",), False), (("--compute.compile", "false"), False), ((), None)):
        assert loaded("train", *words, "--stage", "1", folder=tmp_path).settings.compute.compile is value
    score = loaded("refilter", "d", "--keypoint-score-threshold", "-1.5", folder=tmp_path).settings
    assert score.keypoint_score_threshold == -1.5
    assert loaded("retry", "d", "--outcome", "dns", folder=tmp_path).settings.only == "dns"


# mutation: `_settings_line` from the keys of the layers: a setting at its default is told as one that differs
def test_the_line_of_settings_is_one_line_and_there_only_where_something_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def line(*call: str, **environ: str) -> list[str]:
        caplog.clear()
        with caplog.at_level("INFO", logger="lposekit"):
            loaded(*call, folder=tmp_path, **environ)
        return [message for message in caplog.messages if message.startswith("settings:")]

    assert line("verify", "d") == []
    assert line("build-laion-pose", "--input", "a.csv", "--output", "d", "--rows-per-shard", "1000") == []
    told = line("build-laion-pose", "--input", "a", "--output", "d", "--max-rows", "3", LPOSEKIT_WORKERS="2")
    assert told == ["settings: max_rows 3 from the command line; workers 2 from environment"]
    [told] = line("train")
    assert "\n" not in told
    assert re.fullmatch(r"settings: .+ and \d+ more from preset quickstart \[train[^;]*\](; .+)?", told)


_INTERRUPTED = """
import signal, sys
from lposekit import cli

sys.modules["lposekit.commands.doctor"] = sys.modules["__main__"]

def run(argv):
    print("ready", flush=True)
    signal.pause()

sys.argv[1:] = ["doctor"]
code = cli.main()
print("leaving", flush=True)
sys.stdin.read()  # as slow as an exit that closes libraries
sys.exit(code)
"""


# mutations tried: `raise_on_stop_signals` left out: -15 at the first signal; no `ignore_stop_signals`: at the second
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_any_command_with_130_and_a_second_one_on_the_way_out_changes_nothing(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "leaving\n"
        process.send_signal(number)
        process.stdin.close()
        assert process.wait(30) == 130
        assert "what was finished is valid" in process.stderr.read()


def test_a_forked_child_ends_by_sigterm_as_without_the_handler() -> None:
    # mutation tried: no look at the process's number: the child lives on to raise KeyboardInterrupt
    script = (
        "import os, signal\nfrom lposekit.interrupts import raise_on_stop_signals\nraise_on_stop_signals()\n"
        "child = os.fork()\nif child == 0:\n    signal.raise_signal(signal.SIGTERM)\n    os._exit(1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == f"{-signal.SIGTERM}\n"
