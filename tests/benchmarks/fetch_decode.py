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
connections, and without them, since stock keeps none and a list of the web has many hosts.

Each form runs with the number of threads that suits it best, found in a short search before the rounds.

Python 3.12 is an interpreter that has img2dataset 1.47 and psutil: PATH, or an environment that the benchmark makes
beside its own, at the versions of lposekit/pins.txt, where a python3.12 is found. This file runs under it as well, so
nothing of lposekit is imported but where ours runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.rounds import Spread, alternate, cpu_s, ratio, skip, table, timed, versions

MODULE = "tests.benchmarks.fetch_decode"
REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
PEER_PACKAGES = ("img2dataset", "albumentations", "opencv-python-headless", "numpy")
WARM_UP_ROWS = 32
SAME_CPU = 1.03
"""Thread counts whose CPU time is within this factor of the lowest count as equal; then wall time decides."""

Stored = Sequence[int]
"""Width and height of a stored image, and the bytes of its file."""
FetchAll = Callable[[], tuple[float, dict[str, Stored]]]
"""Fetches everything; returns the CPU seconds of decode, resize and encode, and what would be stored, by URL."""


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to begin."""

    fetch_all: FetchAll
    close: Callable[[], None] = lambda: None


Engine = Callable[[Sequence[str], int, Path], Prepared]
"""URLs, threads, and a folder for temporary files."""


@dataclass(frozen=True)
class Pass:
    """One pass of one form: CPU milliseconds per image of its parts, wall milliseconds, and what it stored."""

    python: str
    packages: str
    start_s: float
    fetch_ms: float
    decode_ms: float
    cpu_ms: float
    wall_ms: float
    stored: dict[str, Stored]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="photos (default: the fixtures' data/images)")
    parser.add_argument("--rows", type=int, default=300, help="at least this many URLs")
    parser.add_argument("--search-rows", type=int, default=150, help="of them, for the search of the threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[4, 8, 16, 32], help="counts to choose from")
    parser.add_argument("--python312", type=Path, help="a Python 3.12 that has img2dataset and psutil")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        run_form(arguments)
        return
    with tempfile.TemporaryDirectory() as name:
        compare(arguments, Path(name))


# --- what runs in a process of its own, under Python 3.12 as well


def run_form(arguments: argparse.Namespace) -> None:
    """Measure one form with each of the thread counts; the last line printed has all passes as JSON."""
    urls = json.loads((arguments.work / "urls.json").read_text())[: arguments.rows]
    engine = FORMS[arguments.form].engine
    if len(arguments.threads) > 1:  # a search within one process: its first pass must not pay for all first uses
        measure(engine, urls[:WARM_UP_ROWS], arguments.threads[0], arguments.work)
    passes = [measure(engine, urls, threads, arguments.work) for threads in arguments.threads]
    print(json.dumps([asdict(one) for one in passes]))


def measure(engine: Engine, urls: Sequence[str], threads: int, work: Path) -> Pass:
    """One pass in this process."""
    started_s = cpu_s()
    prepared = engine(urls, threads, work)
    start_s = cpu_s() - started_s
    answers = []
    took = timed(lambda: answers.append(prepared.fetch_all()))
    prepared.close()
    decode_s, stored = answers[0]
    per_image = 1000 / len(urls)
    return Pass(
        python=f"Python {platform.python_version()}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}",
        packages=versions(*PEER_PACKAGES),
        start_s=start_s,
        fetch_ms=(took.cpu_s - decode_s) * per_image,
        decode_ms=decode_s * per_image,
        cpu_ms=took.cpu_s * per_image,
        wall_ms=took.wall_s * per_image,
        stored=stored,
    )


def stock(
    urls: Sequence[str], threads: int, work: Path, *, one_context: bool = False, skip_reencode: bool = False
) -> Prepared:
    """img2dataset 1.47 as its own `download` builds it, but for the writer, which throws samples away."""
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer

    install_opener(one_context)
    decode_s = 0.0
    stored: dict[str, Stored] = {}
    resizer = Resizer(
        512,
        "keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=95,
        skip_reencode=skip_reencode,
        min_image_size=64,
        max_aspect_ratio=8.0,
    )

    def timed_resizer(stream: Any, boxes: Any) -> Any:
        nonlocal decode_s
        began_s = time.thread_time()
        answer = resizer(stream, boxes)
        decode_s += time.thread_time() - began_s
        return answer

    class Counter:
        def __init__(self, *_: Any) -> None:
            pass

        def write(self, img_str: bytes | None, key: str, caption: Any, meta: dict[str, Any]) -> None:
            if img_str is not None:
                stored[meta["url"]] = (meta["width"], meta["height"], len(img_str))

        def close(self) -> None:
            pass

    rows_file = write_rows(urls, work / "stock.feather")
    downloader = Downloader(
        sample_writer_class=Counter,
        resizer=timed_resizer,
        thread_count=threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(work),
        column_list=["url"],
        timeout=10,
        number_sample_per_shard=10000,
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )

    def fetch_all() -> tuple[float, dict[str, Stored]]:
        ok, _ = downloader((0, str(rows_file)))
        assert ok, "stock img2dataset failed: see its traceback"
        return decode_s, stored

    return Prepared(fetch_all)


def install_opener(one_context: bool) -> None:
    """What urlopen uses. Without `one_context` it is what urlopen would make itself, but before the clock starts.

    Left alone, each thread that comes early makes one: under Python 3.12 as many CA bundles are loaded as there are
    threads. A run of hours does not notice that, one of 300 images would.
    """
    handlers = [urllib.request.HTTPSHandler(context=ssl.create_default_context())] if one_context else []
    urllib.request.install_opener(urllib.request.build_opener(*handlers))


def write_rows(urls: Sequence[str], path: Path) -> Path:
    """The input file of img2dataset's Downloader, which removes it."""
    import pyarrow as pa

    rows = pa.table({"url": list(urls)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
    return path


def ours(urls: Sequence[str], threads: int, work: Path, *, keep_connections: bool) -> Prepared:
    """The path of `build-laion-pose` up to the stored JPEG, with one decoder child."""
    import psutil

    from lposekit.records import ImageRow
    from pipelines.fetch.polite import polite_opener
    from pipelines.fetch.settings import FetchSettings
    from pipelines.image import engine
    from pipelines.image.decode import ImageDecoder, encode_jpeg
    from pipelines.image.download import FetchedRow, download_rows
    from pipelines.image.settings import ImageSettings

    engine.load()
    settings = FetchSettings(threads=threads, per_host_connections=threads)
    opener = polite_opener(settings, allow_private_addresses=True)
    if not keep_connections:  # as on a list where every image lies on a server of its own
        opener.transport.idle.max_connections = 0
    decoder = ImageDecoder(ImageSettings())
    decoder.start()
    rows = [ImageRow(f"{index:09}", url, "") for index, url in enumerate(urls)]
    stored: dict[str, Stored] = {}
    here_s = 0.0

    def timed_decode(data: bytes) -> Any:
        nonlocal here_s
        began_s = time.thread_time()
        try:
            return decoder.decode(data)
        finally:
            here_s += time.thread_time() - began_s

    def take(fetched: FetchedRow) -> None:
        nonlocal here_s
        if fetched.outcome is not None or fetched.image is None:
            return
        began_s = time.thread_time()
        coded = encode_jpeg(fetched.image.rgb_HWC, 95)
        here_s += time.thread_time() - began_s
        stored[str(fetched.row.url)] = (fetched.image.width, fetched.image.height, len(coded))

    def fetch_all() -> tuple[float, dict[str, Stored]]:
        children = psutil.Process().children(recursive=True)
        before_s = sum(sum(child.cpu_times()[:2]) for child in children)
        for row in download_rows(rows, opener=opener, decode=timed_decode, settings=settings, work_dir=work):
            take(row)
        children_s = sum(sum(child.cpu_times()[:2]) for child in children) - before_s
        return here_s + children_s, stored

    def close() -> None:
        decoder.close()
        opener.close()

    return Prepared(fetch_all, close)


@dataclass(frozen=True)
class Form:
    """One row of the table. `python`: `this`, or `3.12` for the other interpreter."""

    label: str
    engine: Engine
    python: str = "this"
    skips_reencode: bool = False
    is_weak: bool = False


THIS_PYTHON = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
LOADS_EACH_TIME = sys.version_info < (3, 12)
FORMS = {
    "stock": Form(f"stock as it is, {THIS_PYTHON}", stock, is_weak=LOADS_EACH_TIME),
    "stock_context": Form(f"stock, one TLS context, {THIS_PYTHON}", partial(stock, one_context=True)),
    "stock_skip": Form(
        f"stock, one TLS context, skip_reencode, {THIS_PYTHON}",
        partial(stock, one_context=True, skip_reencode=True),
        skips_reencode=True,
    ),
    "stock_312": Form("stock as it is, Python 3.12", stock, python="3.12"),
    "stock_312_skip": Form(
        "stock, skip_reencode, Python 3.12", partial(stock, skip_reencode=True), python="3.12", skips_reencode=True
    ),
    "ours_new": Form(f"ours, a new connection for each image, {THIS_PYTHON}", partial(ours, keep_connections=False)),
    "ours_kept": Form(f"ours, kept connections, {THIS_PYTHON}", partial(ours, keep_connections=True)),
}
OURS = ("ours_new", "ours_kept")


# --- the comparison


@dataclass(frozen=True)
class Place:
    """Where the forms run: the temporary folder, and the interpreter of each form."""

    work: Path
    pythons: Mapping[str, str]

    def run(self, form: str, threads: Sequence[int], rows: int) -> list[Pass]:
        """The passes of one process, one for each thread count."""
        command = [self.pythons[form], "-m", MODULE, "--form", form, "--work", str(self.work)]
        command += ["--rows", str(rows), "--threads", *map(str, threads)]
        trusted = {"SSL_CERT_FILE": str(self.work / "trusted.pem")}
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=_environment() | trusted,
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


# --- the other Python


def python312(given: Path | None) -> tuple[str | None, str]:
    """A Python 3.12 that runs stock img2dataset, or none and the reason."""
    if sys.version_info[:2] == (3, 12):
        return None, "this Python is 3.12 already"
    python = str(given) if given else None
    if python is None:
        base = _find_python312()
        if base is None:
            return None, "there is no python3.12 on PATH or among pyenv's versions; --python312 names one"
        python = _make_environment(base)
        if python is None:
            return None, "its environment could not be made: the reason is on standard error"
    code = "import img2dataset.downloader, img2dataset.resizer, psutil, sys; sys.exit(sys.version_info[:2] != (3, 12))"
    if not _succeeds([python, "-c", code]):
        return None, "the interpreter is no Python 3.12, or cannot import img2dataset and psutil"
    return python, ""


def _find_python312() -> str | None:
    versions_of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.12*/bin/python3.12"))
    for found in (shutil.which("python3.12"), *map(str, reversed(versions_of_pyenv))):
        # one on PATH may be a stub that only says where the real one is
        if found and _succeeds([found, "-c", "import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))"]):
            return found
    return None


def _make_environment(base: str) -> str | None:
    """Beside our own environment; installs nothing if it already holds what is pinned today."""
    folder = Path(sys.prefix) / "bench-python312"
    python, holds = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(peer_pins()) + "\n"
    if holds.exists() and holds.read_text() == wanted:
        return str(python)
    if not _succeeds([base, "-m", "venv", "--clear", str(folder)]):
        return None
    (folder / "wanted.txt").write_text(wanted)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--no-deps"]
    if not _succeeds([str(python), *install, "-r", str(folder / "wanted.txt")]):
        return None
    (folder / "wanted.txt").rename(holds)
    return str(python)


def peer_pins() -> list[str]:
    """The lines of pins.txt that img2dataset needs, by its requirements and theirs, and psutil."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (REPOSITORY / "lposekit" / "pins.txt").read_text().splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line and line[0] != "#"}
    target = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
    needed, to_do = set(), ["img2dataset", "psutil"]
    while to_do:
        name = canonicalize_name(to_do.pop())
        if name in needed or name not in pins:  # what is not pinned, lposekit runs img2dataset without
            continue
        needed.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate(target):
                to_do.append(requirement.name)
    return sorted(pins[name] for name in needed)


def _succeeds(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, env=_environment(), stdout=subprocess.DEVNULL, check=False)
    except OSError:  # there is no such program
        return False
    return done.returncode == 0


def _environment() -> dict[str, str]:
    return os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # it asks PyPI for news while it is imported


# --- the report


def about(rows: int, num_certificates: int) -> str:
    return paragraph(
        f"""{rows} images over loopback HTTPS (ECDSA P-256, {num_certificates} trusted certificates), from another
        process on the same cores. Peer: img2dataset 1.47, its Downloader and Resizer in one process
        (keep_ratio, 512, resize_only_if_bigger, area, quality 95, sha256, no EXIF, no retries). Ours: one
        worker with one decoder child. Each form runs with the thread count that suits it best; medians
        (lowest-highest) over alternating rounds, start-up and imports apart."""
    )


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120)


def report(
    passes: Mapping[str, Sequence[Pass]],
    searched: Mapping[str, Mapping[int, Pass]],
    threads: Mapping[str, int],
    file_bytes: Mapping[str, int],
    why_not: str,
) -> str:
    """Tables for people, then the same as one line of JSON."""
    paragraphs = [
        "\n".join([*_interpreters(passes), *([f"Rows of Python 3.12 left out: {why_not}."] if why_not else [])]),
        figures(passes, threads),
        headline(passes, threads, file_bytes),
        ratios(passes),
        thread_search(searched, threads),
        same_and_different(passes, file_bytes),
        json.dumps(as_json(passes, searched, threads, file_bytes)),
    ]
    return "\n\n".join(paragraphs)


def _interpreters(passes: Mapping[str, Sequence[Pass]]) -> list[str]:
    found = {one.python: one.packages for runs in passes.values() for one in runs}
    lines = [f"{python}; {packages}" for python, packages in found.items()]
    return [*lines, f"ours, beside img2dataset's Downloader; {versions('simplejpeg', 'opencv-python-headless')}"]


def figures(passes: Mapping[str, Sequence[Pass]], threads: Mapping[str, int]) -> str:
    headings = ["ms per image", "threads", "CPU: fetch", "CPU: decode", "CPU: total", "wall", "cores in use"]
    rows = []
    for name, runs in passes.items():
        parts = [
            Spread.of([getattr(one, part) for one in runs]) for part in ("fetch_ms", "decode_ms", "cpu_ms", "wall_ms")
        ]
        cores = Spread.of([one.cpu_ms / one.wall_ms for one in runs]).middle
        rows.append([_label(name), threads[name], *parts, cores, Spread.of([one.start_s for one in runs]).middle])
    return (
        table([*headings, "start-up, CPU s"], rows)
        + "\n"
        + paragraph(
            """Wall is of one process of stock, and of one worker of ours with its decoder child: either side fills
            the cores with more processes (processes_count, workers), and then CPU time decides. The environment
            of Python 3.12 that the benchmark makes holds no torch and no ray, so its start-up is shorter."""
        )
    )


def _label(name: str) -> str:
    return FORMS[name].label + (" (weak: loads the CA bundle for each request)" if FORMS[name].is_weak else "")


def _cpu(passes: Mapping[str, Sequence[Pass]], name: str) -> list[float]:
    return [one.cpu_ms for one in passes[name]]


def _wall(passes: Mapping[str, Sequence[Pass]], name: str) -> list[float]:
    return [one.wall_ms for one in passes[name]]


def peers_by_strength(passes: Mapping[str, Sequence[Pass]], *, skips_reencode: bool) -> list[str]:
    """The stock forms of one kind, the one with the least CPU time first."""
    names = [name for name in passes if name not in OURS and FORMS[name].skips_reencode == skips_reencode]
    return sorted(names, key=lambda name: Spread.of(_cpu(passes, name)).middle)


def headline(passes: Mapping[str, Sequence[Pass]], threads: Mapping[str, int], file_bytes: Mapping[str, int]) -> str:
    lines = ["Ratios of CPU time, stock / ours (above 1: ours is faster), against the strongest stock of each kind:"]
    for skips in (False, True):
        peer = peers_by_strength(passes, skips_reencode=skips)[0]
        new, kept = (ratio(_cpu(passes, peer), _cpu(passes, name)) for name in OURS)
        told = f"{FORMS[peer].label}, {threads[peer]} threads: {new} against new connections, {kept} against kept ones"
        kind = "less work than ours" if skips else "every image coded anew, as ours"
        lines.append(f"- {kind}: {told}.")
    as_they_came = counts(passes, file_bytes)["stored_as_it_came_stock_skip"]
    lines.append(
        paragraph(
            f"""skip_reencode stores {as_they_came} of {len(file_bytes)} files as they came, since they need no
            resize: with their metadata, and with what is broken in them. Ours codes every image anew."""
        )
    )
    return "\n".join(lines)


def ratios(passes: Mapping[str, Sequence[Pass]]) -> str:
    headings = ["stock / ours", "CPU, new connections", "CPU, kept", "wall, new connections", "wall, kept"]
    rows = []
    for skips in (False, True):
        for peer in peers_by_strength(passes, skips_reencode=skips):
            by_cpu = [ratio(_cpu(passes, peer), _cpu(passes, name)) for name in OURS]
            by_wall = [ratio(_wall(passes, peer), _wall(passes, name)) for name in OURS]
            rows.append([_label(peer), *by_cpu, *by_wall])
    return table(headings, rows)


def thread_search(searched: Mapping[str, Mapping[int, Pass]], threads: Mapping[str, int]) -> str:
    tried = list(next(iter(searched.values())))
    rows = []
    for name, by_count in searched.items():
        cells = [f"{one.cpu_ms:.2f} / {one.wall_ms:.2f}" for one in by_count.values()]
        rows.append([FORMS[name].label, *cells, threads[name]])
    headings = ["search, one pass: CPU / wall ms", *(f"{count} threads" for count in tried), "taken"]
    return (
        table(headings, rows)
        + "\n"
        + paragraph(
            f"""Taken is the least CPU time; among those within {SAME_CPU - 1:.0%} of it, the least wall time.
            Loopback has no latency: on the web either side needs more threads."""
        )
    )


def counts(passes: Mapping[str, Sequence[Pass]], file_bytes: Mapping[str, int]) -> dict[str, Any]:
    """How the stored images of stock and ours agree."""
    stored = {name: runs[0].stored for name, runs in passes.items()}
    coded, skipped, own = stored["stock_context"], stored["stock_skip"], stored["ours_new"]
    both = coded.keys() & own.keys()
    alike = [[stored[name] for name in peers_by_strength(passes, skips_reencode=skips)] for skips in (False, True)]
    return {
        "accepted_stock": len(coded),
        "accepted_stock_skip": len(skipped),
        "accepted_ours": len(own),
        "only_stock": len(coded.keys() - own.keys()),
        "only_ours": len(own.keys() - coded.keys()),
        "other_size": sum(list(coded[url])[:2] != list(own[url])[:2] for url in both),
        "stored_as_it_came_stock_skip": sum(size[2] == file_bytes[url] for url, size in skipped.items()),
        "kb_per_image_stock": _kb_per_image(coded),
        "kb_per_image_stock_skip": _kb_per_image(skipped),
        "kb_per_image_ours": _kb_per_image(own),
        "stock_forms_agree": all(one == forms[0] for forms in alike for one in forms),
    }


def _kb_per_image(stored: Mapping[str, Stored]) -> float:
    return sum(size[2] for size in stored.values()) / max(len(stored), 1) / 1000


def same_and_different(passes: Mapping[str, Sequence[Pass]], file_bytes: Mapping[str, int]) -> str:
    found = counts(passes, file_bytes)
    rows = [
        ["images accepted", *(found[f"accepted_{name}"] for name in ("stock", "stock_skip", "ours"))],
        ["stored kB per image", *(found[f"kb_per_image_{name}"] for name in ("stock", "stock_skip", "ours"))],
        ["stored as they came", 0, found["stored_as_it_came_stock_skip"], 0],
    ]
    agree = "store the same" if found["stock_forms_agree"] else "do NOT store the same"
    texts = [
        paragraph(
            f"""Accepted by stock alone: {found["only_stock"]}, by ours alone: {found["only_ours"]}; stored at
            another width or height: {found["other_size"]}. The stock forms of one kind {agree}."""
        ),
        paragraph(
            """Same on both sides: URLs and bodies, certificates verified, sha256 of every body, opt-out headers
            heeded, a shorter side of at least 64 and brought down to 512, at most 8 times as long as wide, area
            averaging, JPEG quality 95 at 4:2:0, nothing written."""
        ),
        paragraph(
            """Only ours: each address checked before it is dialled (private ones are allowed here), robots.txt
            asked once a host, limits of time, bytes and pixels for every row, damaged JPEGs refused, EXIF
            orientation applied, a decoder child with a memory limit, which can be killed."""
        ),
    ]
    return "\n".join([table(["", "stock", "stock, skip_reencode", "ours"], rows), *texts])


def as_json(
    passes: Mapping[str, Sequence[Pass]],
    searched: Mapping[str, Mapping[int, Pass]],
    threads: Mapping[str, int],
    file_bytes: Mapping[str, int],
) -> dict[str, Any]:
    parts = ("fetch_ms", "decode_ms", "cpu_ms", "wall_ms", "start_s")
    forms = {
        name: {"threads": threads[name], "python": runs[0].python}
        | {part: [round(getattr(one, part), 3) for one in runs] for part in parts}
        | {"search_cpu_ms": {count: round(one.cpu_ms, 3) for count, one in searched[name].items()}}
        for name, runs in passes.items()
    }
    strongest = {
        kind: {
            "peer": (peer := peers_by_strength(passes, skips_reencode=kind == "skip_reencode")[0]),
            **{name: asdict(ratio(_cpu(passes, peer), _cpu(passes, name))) for name in OURS},
        }
        for kind in ("reencode", "skip_reencode")
    }
    return {
        "benchmark": "fetch_decode",
        "rows": len(file_bytes),
        "cpu_ratio_to_strongest": strongest,
        "forms": forms,
        **counts(passes, file_bytes),
    }


if __name__ == "__main__":
    main()
