"""`python -m tests.golden.dump DIR OUT.safetensors`: computes all expected tensors of a fixture folder with our model.

The tensors are named `CASE/expected.NAME`, CASE being the name of the case's file without `.io.safetensors`.
`expected.branch.*` and `expected.debug.*` are aids and left out. Nothing of the stored `expected.*` values is read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.golden.evaluate import evaluate
from tests.golden.fixture_set import open_set

logger = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden.dump", description=__doc__)
    parser.add_argument("folder", type=Path, help="a fixture set: meta.json, *.io.safetensors, *.weights.safetensors")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    out, failed = {}, []
    fixtures = open_set(arguments.folder)
    for case in fixtures.cases():
        try:
            tensors = evaluate(fixtures, case)
        except (ValueError, LookupError, TypeError, RuntimeError):
            # one case that cannot be computed must not cost the others
            logger.exception("%s: failed", case.name)
            failed.append(case.name)
            continue
        out |= {f"{case.name}/{name}": value.detach().contiguous().clone() for name, value in tensors.items()}
        logger.info("%s: %d tensors", case.name, len(tensors))
    save_file(out, arguments.out)
    if failed:
        logger.error("failed: %s", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
