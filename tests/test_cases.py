"""Contract: every case of the list of failures and attacks has a test that says so, and marks name known cases."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

from tests.support.cases import CASES
from tests.support.fixtures import REPOSITORY


def marked_cases(text: str) -> list[int]:
    """The numbers of all `pytest.mark.case(...)` in a file."""
    if "mark.case(" not in text:
        return []
    return [
        argument.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.case"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    ]


@cache
def _marks() -> Counter[int]:
    files = sorted(Path(REPOSITORY / "tests").rglob("test_*.py"))
    return Counter(number for path in files for number in marked_cases(path.read_text(encoding="utf-8")))


def test_every_case_has_a_test() -> None:
    # Mutation tried: a case without a mark -> red.
    assert [number for number in CASES if number not in _marks()] == []


def test_marks_name_known_cases_and_numbers_have_no_hole() -> None:
    assert [number for number in _marks() if number not in CASES] == []
    assert list(CASES) == list(range(1, len(CASES) + 1))


def test_marks_are_found_on_functions_and_on_parameters() -> None:
    text = "@pytest.mark.case(3, 4)\ndef f(): ...\nx = pytest.param(1, marks=pytest.mark.case(5))\n"
    assert sorted(marked_cases(text)) == [3, 4, 5]
