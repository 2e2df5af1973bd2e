"""The console script `lposekit`: finds the command, and is the border where an error becomes a line and an exit code.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or settings, 3 finished outside the limits set, 130 interrupted
with everything committed so far valid.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import lposekit
from lposekit.commands.registry import COMMANDS
from lposekit.errors import Interrupted, LposekitError, UsageError
from lposekit.extras import missing_module_words
from lposekit.interrupts import ignore_stop_signals, raise_on_stop_signals
from lposekit.setting_values import nearest
from lposekit.terminal import printable

logger = logging.getLogger("lposekit")

OUR_PACKAGES = ("pipelines", "trainer")


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever `sys.stderr` is now, so that a progress bar that takes it over keeps its line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: object) -> None:
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never raises, `SystemExit` of the flag parser aside.

    Without `argv` it takes the process's own arguments, and its SIGTERM: a scheduler's signal ends any command as
    Ctrl-C does, also one that listens to none of them.
    """
    if argv is not None:
        return _run(list(argv))
    raise_on_stop_signals()
    exit_code = _run(sys.argv[1:])
    if exit_code == Interrupted.exit_code:
        ignore_stop_signals()
    return exit_code


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments or os.environ.get("LPOSEKIT_DEBUG", "") not in ("", "0")
    _set_up_logging(debug)
    try:
        exit_code = _dispatch(arguments)
        sys.stdout.flush()  # here, where a closed pipe is still an error of ours
        return exit_code
    except LposekitError as error:
        _report(str(error), debug)
        return error.exit_code
    except KeyboardInterrupt:
        _report("interrupted; what was finished is valid, and the same command goes on from there", debug)
        return Interrupted.exit_code
    except ModuleNotFoundError as error:
        command = COMMANDS.get(arguments[0]) if arguments else None
        _report(missing_module_words(error, command.extras if command else ()), debug)
        return LposekitError.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return LposekitError.exit_code
    except Exception as error:  # noqa: BLE001 (the border: whatever it is, the user gets one line)
        hint = "" if debug else " Run it again with --debug for the traceback."
        _report(f"unexpected {type(error).__name__}: {error}.{hint}", debug)
        return LposekitError.exit_code


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] == "--debug":
        arguments = [*arguments[1:], "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"lposekit {lposekit.__version__}\n")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        hint = nearest(arguments[0], COMMANDS)
        raise UsageError(f"there is no command {arguments[0]!r}{hint} `lposekit --help` lists them.")
    check_packages()
    return importlib.import_module(command.module).run(arguments[1:])


def help_text() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command.name:{width}}  {command.summary}" for command in COMMANDS.values()]
    return "\n".join(
        [
            "usage: lposekit COMMAND [FLAGS]",
            "",
            "Build the LAION-Pose dataset, build video shards, and train both stages of Follow-Your-Pose.",
            "",
            "commands:",
            *lines,
            "",
            "Without an input, build-laion-pose, build-video-shards and train run on sample data, one after the other.",
            "`lposekit COMMAND --help` shows the flags that matter, `--help-all` all of them.",
            "`lposekit --version` tells the version.",
            "",
        ]
    )


def check_packages() -> None:
    """Refuses a foreign package that hides ours: `trainer` is also the name of a published one.

    Raises:
        UsageError: names the foreign package and its place.
    """
    ours = Path(lposekit.__file__).resolve().parent.parent
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        places = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or "."]]
        if places[0] != ours / name:
            raise UsageError(
                f"the package {name!r} at {places[0]} is not the one of lposekit and hides it. Uninstall it "
                f"(`pip uninstall {name}`), or start from another folder and without it in PYTHONPATH."
            )


def _set_up_logging(debug: bool) -> None:
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if debug else "%(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("lposekit", *OUR_PACKAGES):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)


def _report(message: str, debug: bool) -> None:
    logger.error("lposekit: %s", message, exc_info=debug)


if __name__ == "__main__":
    sys.exit(main())
