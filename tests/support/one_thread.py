"""One torch thread: small models are too small for two, and waiting threads cost a busy machine most of its time.

A conftest or a test file that imports the fixture has it for all of its tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
