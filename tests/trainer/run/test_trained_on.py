"""Contract: a run says which of some samples were in its batches, under the names that it gave them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.dataset_folder import make_dataset
from trainer.run.trained_on import runs_of


def test_samples_of_one_of_several_datasets_are_found_among_those_of_all(tmp_path: Path) -> None:
    # Mutation tried: bare keys looked for -> 0 samples, a false all-clear.
    layout = make_dataset(tmp_path / "d")
    run = tmp_path / "run"
    run.mkdir()
    card = {"stage": 1, "data": ["elsewhere", str(layout.root)], "fixed": {"data": ["0" * 64, "1" * 64]}}
    (run / "run.json").write_text(json.dumps(card))
    (run / "keys.jsonl").write_text(json.dumps({"step": 1, "keys": ["0:000000001", "1:000000002"]}) + "\n")
    for samples, number in ((["000000002"], 1), (["000000001"], 0)):
        [found] = runs_of([run], layout.root, (), samples)
        assert found.samples == number
