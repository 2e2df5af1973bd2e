"""What `fetch_decode` prints: figures of all forms, ratios to the strongest peer, what is the same on both sides."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.fetch_forms import FORMS, OURS, Pass, Stored
from tests.benchmarks.rounds import Spread, ratio, table, versions

KINDS = ("new", "resumed", "kept")
SAME_CPU = 1.03
"""Thread counts whose CPU time is within this factor of the lowest count as equal; then wall time decides."""


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
        new, resumed, kept = (ratio(_cpu(passes, peer), _cpu(passes, name)) for name in OURS)
        told = (
            f"{FORMS[peer].label}, {threads[peer]} threads: {new} against new connections, {resumed} against those that"
        )
        told += f" resume a TLS session, {kept} against kept ones"
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
    headings = ["stock / ours", *(f"{figure}, {kind}" for figure in ("CPU", "wall") for kind in KINDS)]
    rows, lines = [], []
    for skips in (False, True):
        for peer in peers_by_strength(passes, skips_reencode=skips):
            by_cpu = [ratio(_cpu(passes, peer), _cpu(passes, name)) for name in OURS]
            by_wall = [ratio(_wall(passes, peer), _wall(passes, name)) for name in OURS]
            rows.append([_label(peer), *by_cpu, *by_wall])
            kinds = zip(KINDS, by_wall, by_cpu, strict=True)
            lines += [
                f"{_label(peer)}, against {kind} connections / ours: wall {wall}, CPU {cpu}"
                for kind, wall, cpu in kinds
            ]
    return "\n".join([table(headings, rows), *lines])


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
