"""A pytest plugin: after the run, the table of all cases with the tests that prove each, and how they ended.

python -m pytest -p tests.support.case_table -m case
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.support.cases import CASES

_tests_of: dict[int, dict[str, list[str]]] = defaultdict(dict)
"""Case -> function of a test (path::name) -> node ids."""
_ended: dict[str, str] = {}
_WORSE_FIRST = ("failed", "skipped", "not run", "passed")


@pytest.hookimpl(tryfirst=True)  # with those that -m leaves out: a case whose test is a long one has a test
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("case"):
            for number in mark.args:
                _tests_of[number].setdefault(item.nodeid.partition("[")[0], []).append(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        before = _ended.get(report.nodeid, "passed")
        _ended[report.nodeid] = min(before, report.outcome, key=_WORSE_FIRST.index)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    terminalreporter.section("cases: failures and attacks, and the tests that prove each")
    missing = [number for number in CASES if not _tests_of.get(number)]
    for number, title in CASES.items():
        functions = _tests_of.get(number, {})
        ended = sorted((_state(nodes) for nodes in functions.values()), key=_WORSE_FIRST.index)
        write(f"{number:3} {ended[0] if ended else 'MISSING':8} {title}")
        for function, nodes in functions.items():
            many = f" ({len(nodes)})" if len(nodes) > 1 else ""
            write(f"{'':13}{function.removeprefix('tests/')}{many}")
    proved = sum({"passed"} <= _states(number) <= {"passed", "not run"} for number in CASES)
    named = f"; without a test: {', '.join(map(str, missing))}" if missing else ""
    write(f"{proved} of {len(CASES)} cases proved{named}")


def _states(number: int) -> set[str]:
    return set(map(_state, _tests_of.get(number, {}).values()))


def _state(nodes: list[str]) -> str:
    """The worst end of those forms of a test that were run."""
    return min((_ended[node] for node in nodes if node in _ended), key=_WORSE_FIRST.index, default="not run")
