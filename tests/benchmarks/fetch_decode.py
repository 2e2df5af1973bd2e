"""CPU and wall time per image over loopback HTTPS: stock img2dataset 1.47 in several forms against ours.

    python -m tests.benchmarks.fetch_decode [FOLDER] [--rows 300] [--rounds 5] [--threads 4 8 16 32] [--python312 PATH]

The photos of FOLDER (default: the fixtures' data/images) are served under opaque names by another process. Each form
runs in a fresh process of its own, turn and turn about. CPU time, user and system, is that of this process and of its
children, after its imports and start-up, which are reported apart. "decode" is decode, resize and encode; "fetch" is
everything else: transport, hashes, threads, queues. The last line is one line of JSON.

Stock is its own Downloader and Resizer (keep_ratio, 512, only if bigger, area, JPEG quality 95); samples are thrown
away. Up to Python 3.11 urllib loads the CA bundle anew for each request, which costs more than all the rest, so stock
stands there

- as it is, which is a weak peer, named as such;
- with one TLS context for all requests, installed before its Downloader starts, as a competent user would do;
- the same with skip_reencode, which does less: an image that needs no resize is stored as it came;

and under Python 3.12, whose urllib keeps one context by itself, with and without skip_reencode.

Ours is GuardedOpener, download_rows, ImageDecoder with one killable child, encode_jpeg of every image: with kept
connections; with a new one for each image, since stock keeps none and a list of the web has many hosts; and with a new
one that resumes the host's TLS session: of a host that closes each connection, all but the first ones do.

Each form runs with the number of threads that suits it best, found in a short search before the rounds.

Python 3.12 is an interpreter that has img2dataset 1.47 and psutil: PATH, or an environment that the benchmark makes
beside its own, at the versions of lposekit/pins.txt, where a python3.12 is found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.fetch_forms import FORMS, Pass
from tests.benchmarks.fetch_python312 import peer_environment, python312
from tests.benchmarks.fetch_report import SAME_CPU, about, report
from tests.benchmarks.rounds import alternate, skip
from tests.support.fixtures import REPOSITORY

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="photos (default: the fixtures' data/images)")
    parser.add_argument("--rows", type=int, default=300, help="at least this many URLs")
    parser.add_argument("--search-rows", type=int, default=150, help="of them, for the search of the threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[4, 8, 16, 32], help="counts to choose from")
    parser.add_argument("--python312", type=Path, help="a Python 3.12 that has img2dataset and psutil")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(arguments, Path(name))


@dataclass(frozen=True)
class Place:
    """Where the forms run: the temporary folder, and the interpreter of each form."""

    work: Path
    pythons: Mapping[str, str]

    def run(self, form: str, threads: Sequence[int], rows: int) -> list[Pass]:
        """The passes of one process, one for each thread count."""
        command = [self.pythons[form], "-m", "tests.benchmarks.fetch_forms", form, str(self.work)]
        command += ["--rows", str(rows), "--threads", *map(str, threads)]
        trusted = {"SSL_CERT_FILE": str(self.work / "trusted.pem")}
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=peer_environment() | trusted,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
        )
        return [Pass(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def compare(arguments: argparse.Namespace, work: Path) -> None:
    """Serve the photos, search the thread counts, run the rounds, and print what came out."""
    from tests.support.bad_server import separate_server
    from tests.support.fixtures import fixtures_root

    folder = arguments.folder or fixtures_root() / "data" / "images"
    if not folder.is_dir():
        skip("the photos of the fixtures are missing: set LPOSEKIT_FIXTURES, or name a folder of photos")
    other_python, why_not = python312(arguments.python312)
    pythons = {name: sys.executable if form.python == "this" else other_python for name, form in FORMS.items()}
    file_bytes = publish(folder, work / "public", arguments.rows)
    with separate_server(work / "public", https=True) as (url, ca_file):
        assert ca_file is not None
        num_certificates = write_trusted(ca_file, work / "trusted.pem")
        (work / "urls.json").write_text(json.dumps([f"{url}/{name}" for name in file_bytes]))
        print(about(len(file_bytes), num_certificates), flush=True)
        place = Place(work, {name: python for name, python in pythons.items() if python})
        searched = {name: search(place, name, arguments) for name in place.pythons}
        threads = {name: best_count(passes) for name, passes in searched.items()}
        passes = alternate(
            {name: partial(_one_pass, place, name, threads[name], len(file_bytes)) for name in place.pythons},
            arguments.rounds,
        )
    print(report(passes, searched, threads, {f"{url}/{name}": size for name, size in file_bytes.items()}, why_not))


def _one_pass(place: Place, form: str, threads: int, rows: int) -> Pass:
    return place.run(form, [threads], rows)[0]


def search(place: Place, form: str, arguments: argparse.Namespace) -> dict[int, Pass]:
    """One pass over the first rows for each thread count."""
    counts = arguments.threads
    return dict(zip(counts, place.run(form, counts, arguments.search_rows), strict=True))


def best_count(passes: Mapping[int, Pass]) -> int:
    """The least CPU time; among those as good as the best, the least wall time."""
    lowest_ms = min(one.cpu_ms for one in passes.values())
    equal = [count for count, one in passes.items() if one.cpu_ms <= SAME_CPU * lowest_ms]
    return min(equal, key=lambda count: passes[count].wall_ms)


def publish(folder: Path, public: Path, num_rows: int) -> dict[str, int]:
    """Copy the photos under opaque names until there are `num_rows`; returns the bytes of each by its name."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS)
    if not photos:
        skip("the folder holds no photos")
    public.mkdir()
    file_bytes = {}
    while len(file_bytes) < num_rows:
        for photo in photos:
            name = hashlib.sha256(f"{len(file_bytes)}".encode()).hexdigest()[:16]
            shutil.copyfile(photo, public / name)
            file_bytes[name] = photo.stat().st_size
    return file_bytes


def write_trusted(ca_file: Path, target: Path) -> int:
    """The system's certificates plus the server's own authority; returns how many there are."""
    import certifi

    system = ssl.get_default_verify_paths().cafile or certifi.where()
    text = Path(system).read_bytes() + b"\n" + ca_file.read_bytes()
    target.write_bytes(text)
    return text.count(b"BEGIN CERTIFICATE")


if __name__ == "__main__":
    main()
