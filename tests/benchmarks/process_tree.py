"""CPU time of a command and of every process that comes from it, over time: nothing is lost with a process that ends.

    python -m tests.benchmarks.process_tree TIMELINE.json COMMAND ...

Sums over waited-for children are not enough: Ray's node process does not wait for its workers, so that most of the CPU
time of a build is gone from `getrusage` once they have ended. Here each process counts with what it was last seen to
have used, and orphans stay in sight, for this process adopts them. What is lost is what a process uses after its last
sample, 0.2 s at most; the samples' own cost is not counted. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S, POLL_S = 0.2, 0.02
PATIENCE_S = 20.0
"""How long processes may go on after the command itself; then they are killed."""
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1


class ProcessTree:
    """All descendants of a process, living and dead, and their CPU time as far as it was seen.

    Args:
        root: the process.
        with_root: whether its own time counts too.
    """

    def __init__(self, root: int, *, with_root: bool) -> None:
        self._root = root
        self._with_root = with_root
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._seen: dict[tuple[int, int], float] = {}

    def sample(self) -> float:
        """CPU seconds, user and system, of all processes seen up to now."""
        processes = {pid: stat for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (stat := _stat(pid))}
        children: dict[int, list[int]] = {}
        for pid, (parent, _, _) in processes.items():
            children.setdefault(parent, []).append(pid)
        known, waiting = set(), [self._root]
        while waiting:
            pid = waiting.pop()
            if pid in processes and pid not in known and (self._with_root or pid != self._root):
                _, started, ticks = processes[pid]
                self._seen[pid, started] = ticks * self._tick_s
            known.add(pid)
            waiting += [child for child in children.get(pid, []) if child not in known]
        return sum(self._seen.values())


def _stat(pid: int) -> tuple[int, int, int] | None:
    """Parent, start time and CPU ticks of a process; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])


@dataclass(frozen=True)
class Timeline:
    """CPU seconds of a command and all its processes, by the clock (seconds since 1970)."""

    times: Sequence[float]
    cpu_s: Sequence[float]

    @property
    def start(self) -> float:
        return self.times[0]

    @property
    def end(self) -> float:
        """When the last of the processes was gone."""
        return self.times[-1]

    def cpu_at(self, moment: float) -> float:
        """CPU seconds used up to a moment, in a straight line between two samples."""
        after = min(max(bisect_left(self.times, moment), 1), len(self.times) - 1)
        (t0, t1), (c0, c1) = self.times[after - 1 : after + 1], self.cpu_s[after - 1 : after + 1]
        share = min(max((moment - t0) / max(t1 - t0, 1e-9), 0.0), 1.0)
        return c0 + share * (c1 - c0)


def run_measured(command: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[str, Timeline]:
    """Run a command in a folder; returns what it printed, and its CPU time until its last process had ended.

    Raises:
        RuntimeError: it failed.
    """
    path, repository = folder / "timeline.json", str(Path(__file__).resolve().parents[2])
    environment = {**environment, "PYTHONPATH": repository}
    meter = [sys.executable, "-m", "tests.benchmarks.process_tree", str(path), *command]
    done = subprocess.run(meter, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout, Timeline(**json.loads(path.read_text()))


def main() -> None:
    path, command = Path(sys.argv[1]), sys.argv[2:]
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A benchmark that is killed takes all its processes with it.
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tree = ProcessTree(os.getpid(), with_root=False)
    times, cpu_s = [time.time()], [0.0]
    process = subprocess.Popen(command)
    status, give_up_at, ended = 0, float("inf"), 0
    try:
        while ended is not None:
            if ended == process.pid:
                give_up_at = time.time() + PATIENCE_S
            if time.time() - times[-1] >= INTERVAL_S:
                cpu_s.append(tree.sample())
                times.append(time.time())
            if time.time() > give_up_at:
                _kill_all()
            ended, code = _ended_child()
            status = code if ended == process.pid else status
    finally:
        _kill_all()
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Where every process was waited for, this is exact and the samples are a little less.
    cpu_s.append(max(cpu_s[-1], waited.ru_utime + waited.ru_stime))
    times.append(time.time())
    path.write_text(json.dumps({"times": times, "cpu_s": cpu_s}))
    sys.exit(status)


def _ended_child() -> tuple[int | None, int]:
    """A child that has ended, own or adopted, and its exit code; 0 after a short wait; None when none is left."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None, 0
    if pid == 0:
        time.sleep(POLL_S)
    return pid, os.waitstatus_to_exitcode(status)


def _kill_all() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


if __name__ == "__main__":
    main()
