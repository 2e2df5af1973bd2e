"""A limit to the memory of a worker: what a stranger's answer, or a bug, makes it take must not take the machine."""

from __future__ import annotations

import resource


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
