"""Changes files at random, and has every reader of strangers' files read them in a confined child.

    make fuzz MINUTES=5
    python -m tests.fuzz.run --minutes 5 --seed 1 --target image

A crash, a hang, too much memory or an error that the reader does not state is a finding: its file is kept in
`tests/fuzz/found`, from where `test_found.py` reads it again for ever, and the run ends with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import Rejected
from lposekit.sandbox.confinement import Places
from lposekit.sandbox.sandbox import Sandbox, SandboxError
from tests.fuzz import corpus
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"
TIMEOUT_S = 60.0
MEMORY_BYTES = 2 * 2**30


@dataclass(slots=True)
class Tally:
    """What became of one target's files. `findings`: what happened -> the file that it happened on."""

    answers: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Path] = field(default_factory=dict)
    slowest_s: float = 0.0


class Fuzzer:
    """One confined child for one target; `folder` is its own."""

    def __init__(self, target: str, folder: Path) -> None:
        self.seeds = seeds_of(target, folder)
        (folder / "clips").mkdir()
        self._target = target
        self._sandbox = Sandbox(
            "tests.fuzz.targets:tried",
            memory_limit_bytes=MEMORY_BYTES,
            init_args={"folder": str(folder)},
            places=Places(writes=(str(folder),)),
        )

    def ask(self, name: str, data: bytes) -> str:
        """ "read" or "refused". Raises SandboxError: a finding."""
        payload = {"target": self._target, "name": name, "data": data}
        try:
            return self._sandbox.call(payload, timeout_s=TIMEOUT_S)
        except Rejected:
            return "refused"

    def close(self) -> None:
        self._sandbox.close()


def seeds_of(target: str, folder: Path) -> dict[str, bytes]:
    """The sound files of a target, by name; a dataset's lie below `folder` too."""
    makers = {
        "image": corpus.images,
        "stored_image": corpus.images,
        "video": lambda: corpus.videos(folder / "seeds"),
        "video_frames": lambda: corpus.videos(folder / "seeds"),
        "stored_clip": lambda: corpus.videos(folder / "seeds"),
        "address_list": corpus.lists,
        "image_dataset": lambda: corpus.image_dataset(folder / "images"),
        "clip_dataset": lambda: corpus.clip_dataset(folder / "clips-dataset"),
    }
    return makers[target]()


def fuzz(target: str, seconds: float, seed: int, found: Path, folder: Path) -> Tally:
    """Try changed files for that long."""
    fuzzer, tally = Fuzzer(target, folder), Tally()
    source = random.Random(f"{target}:{seed}")
    end_s = time.monotonic() + seconds
    try:
        for name, data in _files(fuzzer.seeds, source):
            if time.monotonic() >= end_s:
                break
            began_s = time.monotonic()
            try:
                tally.answers[fuzzer.ask(name, data)] += 1
            except SandboxError as error:
                _keep(tally, target, name, data, str(error), found)
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - began_s)
    finally:
        fuzzer.close()
    return tally


def _files(seeds: Mapping[str, bytes], source: random.Random) -> Iterator[tuple[str, bytes]]:
    """The seeds as they are, then changed ones without end."""
    yield from seeds.items()
    names, others = sorted(seeds), [seeds[name] for name in sorted(seeds)]
    while True:
        name = source.choice(names)
        yield name, mutated(seeds[name], others, source)


def _keep(tally: Tally, target: str, name: str, data: bytes, what: str, found: Path) -> None:
    tally.answers["findings"] += 1
    what = what.partition(": ")[2]
    if what not in tally.findings:
        place = found / f"{target}-{hashlib.sha256(data).hexdigest()[:8]}-{name.replace('/', '+')}"
        place.write_bytes(data)
        tally.findings[what] = place


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one every time; it is printed")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: each of them")
    parser.add_argument("--found", type=Path, default=FOUND, help="folder for the files that were found")
    options = parser.parse_args(arguments)
    seed = int(time.time()) if options.seed is None else options.seed
    targets = options.target or list(TARGETS)
    print(f"seed {seed}, {options.minutes:g} minutes", flush=True)
    print(f"{'reader':16}{'files':>9}{'read':>9}{'refused':>9}{'findings':>9}{'slowest':>9}", flush=True)
    num_findings = 0
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="lposekit-fuzz-") as folder:
            tally = fuzz(target, options.minutes * 60 / len(targets), seed, options.found, Path(folder).resolve())
        counts = tally.answers
        figures = f"{counts.total():9}{counts['read']:9}{counts['refused']:9}{counts['findings']:9}"
        print(f"{target:16}{figures}{tally.slowest_s:8.2f}s", flush=True)
        for what, place in tally.findings.items():
            print(f"  {place.name}: {what}", flush=True)
        num_findings += len(tally.findings)
    print(f"{num_findings} findings" + (f", kept in {options.found}" if num_findings else ""))
    return 1 if num_findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
