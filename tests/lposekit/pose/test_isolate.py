"""Contract of lposekit.pose.isolate: a bad item is found by halving and fails alone; a GPU's memory that others hold is
waited for; what is no item's fault is raised."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch

from lposekit.pose import isolate
from lposekit.pose.isolate import run_isolated
from lposekit.records import PoseFailure


# Mutation: catch Exception in run_isolated.
def test_a_bug_is_not_taken_for_a_bad_image() -> None:
    def buggy(items: Sequence[int]) -> list[int]:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        run_isolated(buggy, [1, 2, 3])


@pytest.mark.case(23)
def test_halving_finds_every_bad_item_and_keeps_the_order() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if any(item % 5 == 3 for item in items):
            raise ValueError(f"bad: {items}")
        return [item * 10 for item in items]

    answers = run_isolated(run, list(range(20)))
    assert [i for i, answer in enumerate(answers) if isinstance(answer, PoseFailure)] == [3, 8, 13, 18]
    assert [a for a in answers if not isinstance(a, PoseFailure)] == [i * 10 for i in range(20) if i % 5 != 3]


# Mutations tried: a single item never waits; it waits for ever; the driver's own error taken for a lost GPU.
@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, torch.AcceleratorError])
@pytest.mark.parametrize(("batches_of_others", "succeeds"), [(3, True), (100, False)])
def test_an_item_waits_for_memory_that_others_hold_but_not_for_ever(
    batches_of_others: int, succeeds: bool, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [batches_of_others]
    monkeypatch.setattr(isolate.time, "sleep", lambda _: left.append(left.pop() - 1))

    def run(items: Sequence[int]) -> list[int]:
        if left[0]:
            raise kind("CUDA error: out of memory")
        return list(items)

    [answer] = run_isolated(run, [7])
    assert (answer == 7) == succeeds
    if not succeeds:
        assert isinstance(answer, PoseFailure)
        assert "out of memory" in answer.detail


# Mutations tried: memory not given back; given back while the failed batch is still held by its traceback.
def test_memory_is_given_back_once_the_failed_batch_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensors:
        pass

    held: list[weakref.ref[Tensors]] = []
    gone: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(held[-1]() is None))

    def run(items: Sequence[int]) -> list[int]:
        tensors = Tensors()
        held.append(weakref.ref(tensors))
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(items)

    assert run_isolated(run, [7, 8]) == [7, 8]
    assert gone == [True]
