"""Large answers come without a copy: whole as long as anybody holds them, and no longer in the way after that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lposekit.sandbox.arena import Arena
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed
from lposekit.sandbox.slots import Slots, mapped_by_child
from tests.support.fixtures import REPOSITORY

TARGETS = "tests.lposekit.sandbox.sandbox_targets"
MEMORY = 256 * 2**20
SLOT = 2**20
pytestmark = pytest.mark.timeout(180)


def filled(sandbox: Sandbox, value: int, num_bytes: int = SLOT) -> np.ndarray:
    array = sandbox.call({"value": value, "num_bytes": num_bytes}, timeout_s=30)
    assert array.shape == (num_bytes,)
    assert (array == value).all()
    return array


def is_mapped(array: np.ndarray) -> bool:
    return not array.flags.writeable


@pytest.fixture
def sandbox() -> Any:
    with Sandbox(f"{TARGETS}:filled", memory_limit_bytes=MEMORY, slots=3, slot_bytes=SLOT) as sandbox:
        yield sandbox


# Mutations: the place free at once (the first array changes); never (the last one is copied); by the first view's end.
def test_a_place_is_taken_as_long_as_its_array_or_a_view_of_it_is_held(sandbox: Sandbox) -> None:
    held = [filled(sandbox, value) for value in range(3)]
    copied = filled(sandbox, 9)
    assert [is_mapped(array) for array in (*held, copied)] == [True, True, True, False]
    view = held[1][10:20].reshape(2, 5)
    del held[1]
    assert not is_mapped(filled(sandbox, 7))
    assert [int(array[0]) for array in held] == [0, 2]
    assert (view == 1).all()
    del view
    assert is_mapped(filled(sandbox, 5))
    assert [int(array[-1]) for array in held] == [0, 2]


# Mutation: `unless_used` left out (after three calls none is left).
def test_answers_without_a_large_array_take_no_place_and_larger_ones_are_copied(sandbox: Sandbox) -> None:
    for _ in range(4):
        assert not is_mapped(filled(sandbox, 1, 100))
        assert not is_mapped(filled(sandbox, 2, SLOT + 1))
    assert is_mapped(filled(sandbox, 3))


# Mutations tried: the buffer of the first call given to all (held arrays change); one that is too small given as well.
def test_an_answer_that_was_made_in_its_place_is_the_answer() -> None:
    with Sandbox(f"{TARGETS}:filled_in_place", memory_limit_bytes=MEMORY, slots=3, slot_bytes=SLOT) as sandbox:
        payloads = [{"value": value, "num_bytes": SLOT + (value == 2)} for value in range(6)]
        answers = [sandbox.call(payload, timeout_s=30) for payload in payloads]
    assert [answer["in_place"] for answer in answers] == [True, True, False, True, False, False]
    assert [is_mapped(answer["array"]) for answer in answers] == [True, True, False, True, False, False]
    for value, answer in enumerate(answers):
        assert (answer["array"] == value).all()
        assert (answer["other"] == value + 1).all()


# Mutation: the slots of the child before used for the next one.
def test_arrays_outlive_their_child(sandbox: Sandbox) -> None:
    held = filled(sandbox, 4)
    sandbox.close()
    others = [filled(sandbox, value) for value in (5, 6, 7)]
    assert all(is_mapped(array) for array in others)
    assert (held == 4).all()


# Mutations: no seals; no look at the size in `Slot.array`.
def test_nobody_can_shorten_what_is_mapped_and_no_array_reaches_beyond_its_place() -> None:
    slots = Slots(2, SLOT)
    script = f"import os\ntry: os.ftruncate({slots.fd}, 0)\nexcept PermissionError: print('sealed')"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, pass_fds=(slots.fd,), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert ended.stdout == "sealed\n", ended
    slot = slots.take()
    assert slot is not None
    for dtype, shape in (("u1", [SLOT + 1]), ("<f8", [SLOT // 8 + 1]), ("u1", [2**40, 2**40])):
        with pytest.raises(ValueError, match="lies in a place"):
            slot.array(dtype, shape)
    assert slot.array("u1", [SLOT]).shape == (SLOT,)
    with pytest.raises(ValueError, match="lies in a place"):
        slot.array("u1", [1])
    os.close(slots.fd)


# Mutation: a slot that was not given is looked up as number 0.
def test_an_answer_that_names_a_place_it_did_not_get_is_refused() -> None:
    arena, slots = Arena(os.memfd_create("test")), Slots(1, SLOT)
    (view,) = mapped_by_child(slots.fd, SLOT)
    where = arena.write(np.ones(SLOT, np.uint8), view)
    with pytest.raises(ValueError, match="unknown kind 'slot'"):
        arena.read(*where)
    slot = slots.take()
    assert (arena.read(*where, slot) == 1).all()
    os.close(arena.fd)
    os.close(slots.fd)


@pytest.mark.parametrize("content", [["|O", [1]], ["u1", [-1]], ["u1", [SLOT + 1]], ["u1"], 7])
def test_a_forged_place_is_a_crash_and_nothing_worse(content: object) -> None:
    # mutation: the size alone is looked at -> for a negative side numpy's own refusal is what is left
    forged = {"how": "forge", "kind": b"A", "text": json.dumps({"slot": content}).encode()}
    with (
        Sandbox(f"{TARGETS}:misbehave", memory_limit_bytes=MEMORY, slots=1, slot_bytes=SLOT) as sandbox,
        pytest.raises(SandboxCrashed, match="cannot be read"),
    ):
        sandbox.call(forged, timeout_s=30)
