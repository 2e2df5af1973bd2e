"""The files that the fuzzer changes: small, of every kind that is read, and made here rather than kept."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.dataset_folder import make_results
from tests.support.datasets import make_dataset_of
from tests.support.train_data import write_dataset
from tests.support.videos import moving, write_video

_SIDE = 48


def images() -> dict[str, bytes]:
    """The four formats, in the kinds of pixels and with the headers that their readers treat apart."""
    noise = np.random.default_rng(0).integers(0, 255, (_SIDE, _SIDE + 16, 3), np.uint8)
    photo = Image.fromarray(noise).resize((_SIDE + 16, _SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "plain.jpg": _encoded(photo, "JPEG", quality=80),
        "progressive.jpg": _encoded(photo, "JPEG", progressive=True),
        "turned.jpg": _encoded(photo, "JPEG", exif=exif),
        "grey.jpg": _encoded(photo.convert("L"), "JPEG"),
        "cmyk.jpg": _encoded(photo.convert("CMYK"), "JPEG"),
        "restart.jpg": _encoded(photo, "JPEG", restart_marker_blocks=2),
        "plain.png": _encoded(photo, "PNG"),
        "palette.png": _encoded(photo.convert("P"), "PNG", transparency=3),
        "deep.png": _encoded(Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "PNG"),
        "alpha.png": _encoded(photo.convert("RGBA"), "PNG"),
        "plain.webp": _encoded(photo, "WEBP"),
        "lossless.webp": _encoded(photo.convert("RGBA"), "WEBP", lossless=True),
        "moving.webp": _encoded(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
        "moving.gif": _encoded(photo.convert("P"), "GIF", save_all=True, append_images=[photo.rotate(90).convert("P")]),
    }


def _encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def videos(folder: Path) -> dict[str, bytes]:
    """Short clips of every container that is read, a rotated one and one of a variable rate among them."""
    folder.mkdir()
    frames = [moving(number, size=(64, 48)) for number in range(30)]
    files = [
        write_video(folder / "plain.mp4", frames),
        write_video(folder / "fast.mp4", frames, faststart=True),
        write_video(folder / "turned.mp4", frames, rotation=90),
        write_video(folder / "variable.mp4", frames[:20], pts=[40 * n + n * n for n in range(20)], b_frames=0),
        write_video(folder / "plain.mkv", frames),
        write_video(folder / "plain.ts", frames),
        write_video(folder / "plain.avi", frames, codec="mpeg4", b_frames=0),
        write_video(folder / "plain.webm", frames[:12], codec="libvpx", b_frames=0),
    ]
    return {path.name: path.read_bytes() for path in files}


def lists() -> dict[str, bytes]:
    """Lists of addresses in every form."""
    rows = [
        {"url": f"http://host.example/{n}.jpg", "caption": f"caption {n}, \u00e9", "width": n, "punsafe": n / 10}
        for n in range(12)
    ]
    table, stream = pa.Table.from_pylist(rows), io.BytesIO()
    pq.write_table(table, stream)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    cells = "\n".join(f'http://host.example/{n}.jpg,"a, b\n {n}",{n}' for n in range(12)).encode()
    return {
        "a.parquet": stream.getvalue(),
        "a.jsonl": lines,
        "a.json": json.dumps(rows).encode(),
        "a.csv": b"url,caption,width\n" + cells,
        "a.tsv": b"url\tcaption\n" + b"http://host.example/a.jpg\ttext\n" * 5,
        "a.txt": b"http://host.example/a.jpg\n" * 5,
    }


def image_dataset(root: Path) -> dict[str, bytes]:
    """A dataset folder of images; returns its files by their name below it."""
    make_dataset_of(root, [make_results(0, 6), make_results(1, 6)])
    return _files(root)


def clip_dataset(root: Path) -> dict[str, bytes]:
    write_dataset(root, [2, 1], "video", num_frames=6, height=32, width=32)
    return _files(root)


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tensors() -> dict[str, bytes]:
    """A safetensors file, by hand: 8 bytes of length, a JSON header, the numbers."""
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"x": "y"}}
    text = json.dumps(header).encode()
    return {"plain.safetensors": struct.pack("<Q", len(text)) + text + bytes(24)}
