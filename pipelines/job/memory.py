"""A limit to the memory of a worker: what a stranger's answer, or a bug, makes it take must not take the machine."""

from __future__ import annotations

import resource
import threading

STACK_BYTES = 2 * 2**20


def small_stacks() -> None:
    """Give Python's threads, those that start from now on, stacks of `STACK_BYTES`.

    The limit counts a stack as a whole, used or not: with the usual 8 MiB, a few hundred downloads would fill it.
    """
    threading.stack_size(STACK_BYTES)


def refused_memory(error: Exception, num_bytes: int) -> str | None:
    """In words, that a worker with this limit was refused memory; None if the error says something else."""
    if isinstance(error, MemoryError):
        return f"its worker was refused more memory than {num_bytes} bytes (--worker-memory-bytes)"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return (
            f"its worker could start no further thread: {num_bytes} bytes of memory, which stacks count to "
            "(--worker-memory-bytes), or the system's limit of processes (ulimit -u) are too few"
        )
    return None


def limit_memory(num_bytes: int) -> None:
    """Private memory of this process, from now on; what it starts may set limits of its own.

    Python and numpy raise MemoryError at the limit; native code may end the process.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        data_pages = int(file.read().split()[5])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_pages * resource.getpagesize() + num_bytes
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
