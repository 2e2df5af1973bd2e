"""Contract of docs/benchmarks.md: a section that is measured again keeps what other kinds of CPU gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import run


def ratio(number: float) -> str:
    return f"official / ours: wall {number:.2f} (1.00-3.00), CPU 1.00 (1.00-1.00)"


# Mutations tried: the older section's own ratios left out; those kept before left out; those of this CPU kept.
def test_the_last_ratios_of_each_kind_of_cpu_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    for kind, number in ((1, 1.5), (17, 2.5), (33, 3.5), (17, 4.5)):
        cpu = f"2 cores (AMD(R) EPYC, family 25, model {kind}), 24 GiB"
        monkeypatch.setattr(run, "machine", lambda cpu=cpu: cpu)
        run.write_section("official_step", f"a table\n{ratio(number)}\n", 0.0, page=page)
    measured, _, others = page.read_text().partition(run.OTHER_CPUS)
    assert ratio(4.5) in measured
    kept = [line for line in others.splitlines() if line]
    assert [line.split("family 25, ")[1] for line in kept] == [f"model 1): {ratio(1.5)}", f"model 33): {ratio(3.5)}"]
