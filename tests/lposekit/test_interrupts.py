"""Contract of signals: the first SIGINT or SIGTERM asks for a stop, only a second SIGINT drops the work, and the
handlers of before are back afterwards, whatever a library installed in the meantime."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lposekit.interrupts import STOP_SIGNALS, Interrupts, handlers_restored


@pytest.fixture(autouse=True)
def handlers_of_before() -> Iterator[None]:
    with handlers_restored():
        yield


@pytest.mark.parametrize("first", STOP_SIGNALS)
def test_the_first_signal_asks_and_the_second_ctrl_c_stops_at_once(first: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Interrupts(second_raises=True).installed() as interrupts:
        assert not interrupts.stop.is_set()
        signal.raise_signal(first)
        assert interrupts.stop.is_set()
        # Mutation tried: a second SIGTERM that stops at once is red.
        signal.raise_signal(signal.SIGTERM)
        assert not interrupts.drop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.drop.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_work_that_looks_at_drop_is_not_broken_by_an_exception() -> None:
    with Interrupts().installed() as interrupts:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert interrupts.drop.is_set()


@pytest.mark.case(95)
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_was_inherited_as_ignored_is_heard_and_ignored_again_afterwards(number: signal.Signals) -> None:
    # Mutation tried: leaving a handler that is SIG_IGN alone -> no stop.
    signal.signal(number, signal.SIG_IGN)
    with Interrupts().installed() as interrupts:
        signal.raise_signal(number)
    assert interrupts.stop.is_set()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_handler_that_a_library_installs_inside_is_replaced_by_the_one_of_before() -> None:
    # Mutation tried: no restoring -> the library's handler stays.
    with Interrupts().installed() as interrupts:
        with handlers_restored():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.stop.is_set()


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    seen = []

    def work() -> None:
        with Interrupts().installed():
            seen.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


@pytest.mark.case(82, 95)
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_command_that_listens_to_no_signal_ends_with_130_also_where_signals_were_ignored(
    number: signal.Signals,
) -> None:
    # Mutation tried: a SIGINT that was inherited as ignored left so -> exit code 0.
    code = (
        "import signal, sys; from lposekit import cli; from lposekit.interrupts import STOP_SIGNALS\n"
        f"cli._dispatch = lambda arguments: signal.raise_signal({int(number)}) or 0\n"
        "sys.argv = ['lposekit', 'verify']; sys.exit(cli.main())"
    )
    ignored = (
        "import os, signal, sys; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", ignored, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (130, 1), done.stderr
    assert "interrupted" in done.stderr
