"""A real Ray cluster of several nodes on this machine, in a process of its own, closed to whoever has not its token.

python -m tests.support.ray_cluster NODES      # prints its address, ends when its standard input is closed
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

from tests.support.fixtures import REPOSITORY

OBJECT_STORE_BYTES = 100 * 2**20


@contextlib.contextmanager
def ray_cluster(num_nodes: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a running cluster, one CPU a node, and the environment that its clients need."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [sys.executable, "-m", "tests.support.ray_cluster", str(num_nodes)]
    environment = {**os.environ, **token}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            address = next(line.split()[1] for line in lines if line.startswith("address "))
            yield address, token
        finally:
            process.stdin.close()
            process.wait(60)


def main() -> None:
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    for _ in range(int(sys.argv[1]) - 1):
        cluster.add_node(**arguments)
    cluster.wait_for_nodes()
    sys.stdout.write(f"address {cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
