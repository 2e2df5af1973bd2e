"""The quickstart's sample: real photos that ship in the scikit-image package, and what each row must end as.

Only files inside the installed wheel are used. What scikit-image says about them (`skimage.data`): the astronaut, the
Hubble field and the moon are NASA's and in the public domain, the rocket is SpaceX's and in the public domain, the
photographer with his camera (Lav Varshney) and the cup of coffee (Rachel Michetti) are CC0 of their makers; of the
coins (Brooklyn Museum) no copyright restrictions are known.

Rows are crops, flips and scales of these, and some of what a real list is full of: dead links, addresses that must not
be fetched, owners who say no, bytes that are no image. The expected outcomes were checked with the models that the
preset `quickstart` names.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.errors import LposekitError, Outcome

if TYPE_CHECKING:
    from PIL.Image import Image

PUBLIC_DOMAIN, CC0, NO_KNOWN = "public domain", "CC0", "no known copyright restrictions"
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Photo:
    """An image made from a file of scikit-image: cropped to `box` (left, top, right, bottom), flipped, scaled."""

    file: str
    box: Box | None = None
    flip: bool = False
    scale: float = 1.0
    format: str = "JPEG"
    orientation: int = 1
    """EXIF orientation: 6 stores the image on its side, with the tag that says so."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the sample's list. `url` is a path on the sample's server, a whole address, or None."""

    url: str | None
    caption: str
    expected: Outcome
    licence: str | None = None
    photo: Photo | None = None
    punsafe: float = 0.01
    md5: str | None = None


def sample_rows() -> list[SampleRow]:
    """The rows of the list, in order: kept ones and others take turns, so that every shard holds some that are kept."""
    kept, others = _kept_rows(), [*_turned_down_rows(), *_failing_rows()]
    slots = [
        (index / len(group), number, row)
        for number, group in enumerate((kept, others))
        for index, row in enumerate(group)
    ]
    return [row for _, _, row in sorted(slots, key=lambda slot: slot[:2])]


def _photographer(name: str, what: str, expected: Outcome = Outcome.KEPT, **changes: object) -> SampleRow:
    photo = Photo("camera.png", **changes)  # type: ignore[arg-type]
    return SampleRow(f"/photos/{name}", f"a photographer in a dark coat {what}", expected, CC0, photo)


def _astronaut(name: str, what: str, expected: Outcome = Outcome.KEPT, **changes: object) -> SampleRow:
    photo = Photo("astronaut.png", **changes)  # type: ignore[arg-type]
    return SampleRow(f"/photos/{name}", f"an astronaut in an orange suit {what}", expected, PUBLIC_DOMAIN, photo)


def _kept_rows() -> list[SampleRow]:
    tripod = "looks through a camera on a tripod, black and white photo"
    flag = "smiles in front of a flag and a model of the Space Shuttle"
    return [
        _photographer("camera.jpg", tripod),
        _photographer("camera-flip.jpg", f"faces left and {tripod}", flip=True),
        _astronaut("astronaut-small.jpg", flag, scale=0.75),
        _photographer("camera-left.jpg", f"on the left {tripod}", box=(0, 0, 400, 512)),
        _photographer("camera-left-flip.jpg", f"on the right {tripod}", box=(0, 0, 400, 512), flip=True),
        _photographer("camera-wide.jpg", f"on a lawn {tripod}", box=(0, 0, 450, 512)),
        _photographer("camera-on-its-side.jpg", f"{tripod}, stored on its side", orientation=6),
        _photographer("camera-cut.jpg", f"cut at the left {tripod}", box=(50, 0, 512, 512)),
        _astronaut("astronaut-half.webp", flag, scale=0.5, format="WEBP"),
        _photographer("camera-half.jpg", f"{tripod}, small", scale=0.5),
        _photographer("camera-grey.png", tripod, scale=0.75, format="PNG"),
        _photographer("camera-close.jpg", "bends over a camera", box=(0, 60, 300, 512)),
        _photographer("camera-close-flip.jpg", "faces left and bends over a camera", box=(0, 60, 300, 512), flip=True),
        _astronaut("astronaut-crop-flip.jpg", flag, box=(0, 0, 460, 512), scale=0.75, flip=True),
        _photographer("camera-narrow.jpg", "bends forward, tall narrow picture", box=(0, 30, 260, 512)),
        _photographer("camera-narrow-flip.jpg", "faces left, tall narrow picture", box=(0, 30, 260, 512), flip=True),
        SampleRow("/moved/camera-flip.jpg", "the photographer again, behind a redirect", Outcome.KEPT, CC0),
    ]


def _turned_down_rows() -> list[SampleRow]:
    head, few, nobody = (150, 0, 320, 180), Outcome.FEW_KEYPOINTS, Outcome.NO_PERSON
    bust = (100, 0, 400, 250)

    def empty(name: str, caption: str, licence: str, photo: Photo) -> SampleRow:
        return SampleRow(f"/photos/{name}", caption, nobody, licence, photo)

    return [
        _astronaut("astronaut-head.jpg", "smiles, head only", few, box=head),
        empty("coffee.jpg", "a cup of coffee with a spoon on a wooden table", CC0, Photo("coffee.png")),
        empty("rocket.jpg", "a rocket on its launch pad at dusk", PUBLIC_DOMAIN, Photo("rocket.jpg")),
        _astronaut("astronaut-head-flip.jpg", "smiles, head only", few, box=head, flip=True),
        empty("hubble.jpg", "galaxies in the Hubble extreme deep field", PUBLIC_DOMAIN, Photo("hubble_deep_field.jpg")),
        empty("coins.jpg", "ancient coins in four rows", NO_KNOWN, Photo("coins.png")),
        _astronaut("astronaut-bust.jpg", "smiles, cut below the shoulders", few, box=bust),
        empty("moon.jpg", "the surface of the moon", PUBLIC_DOMAIN, Photo("moon.png")),
        empty("coffee-flip.png", "a cup of coffee on a red saucer", CC0, Photo("coffee.png", flip=True, format="PNG")),
        _astronaut("astronaut-tiny.jpg", "as a tiny picture", Outcome.TOO_SMALL, scale=0.09),
    ]


def _failing_rows() -> list[SampleRow]:
    def row(url: str | None, caption: str, expected: Outcome) -> SampleRow:
        return SampleRow(url, caption, expected)

    lunch = Photo("coffee.png", scale=0.5)
    wrong_md5 = "0" * 32
    return [
        row("/missing/404.jpg", "a photo that is gone", Outcome.HTTP_4XX),
        row("/truncated/astronaut.jpg", "a photo of which the second half is missing", Outcome.CORRUPT),
        row(None, "a row without an address", Outcome.BAD_URL),
        row("/page.jpg", "a web page in place of a photo", Outcome.NOT_IMAGE),
        row("/private/camera.jpg", "a photo that robots.txt keeps from us", Outcome.ROBOTS),
        row("/opt-out/camera.jpg", "a photo whose owner says noai", Outcome.OPT_OUT),
        row("http://169.254.169.254/latest/meta-data.jpg", "an address inside a cloud", Outcome.PRIVATE_ADDRESS),
        SampleRow("/photos/coffee-unsafe.jpg", "a row marked as unsafe", Outcome.METADATA_FILTER, CC0, lunch, 0.9),
        row("/busy.jpg", "a server that is always busy", Outcome.HTTP_5XX),
        row("ftp://example.com/photo.jpg", "an address that is not http", Outcome.BAD_URL),
        SampleRow(
            "/photos/coffee-other.jpg", "a photo that was replaced", Outcome.HASH_MISMATCH, CC0, lunch, md5=wrong_md5
        ),
        row("/loop.jpg", "a link that leads to itself", Outcome.REDIRECT),
        row("/huge.png", "a tiny file that claims 3,600 million pixels", Outcome.TOO_MANY_PIXELS),
        row("/broken-gzip.jpg", "a photo in a broken gzip coat", Outcome.BAD_ENCODING),
        row("/cut-off.jpg", "a connection that ends early", Outcome.SHORT_READ),
        row("/silent.jpg", "a server that stops talking", Outcome.TIMEOUT),
    ]


# --- bytes -----------------------------------------------------------------------------------------------------------


def data_folder() -> Path:
    """The folder of scikit-image's own images.

    Raises:
        LposekitError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise LposekitError(
            "the quickstart's photos ship in the package scikit-image, which is not installed. "
            "Run `pip install 'lposekit[build]'`, or `lposekit doctor` for the whole command."
        )
    return Path(spec.origin).parent / "data"


@cache
def photo_bytes(photo: Photo) -> bytes:
    """The file that the sample's server sends for a photo."""
    from PIL import Image

    with Image.open(data_folder() / photo.file) as opened:
        image = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
        image.load()
    if photo.box:
        image = image.crop(photo.box)
    if photo.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if photo.scale != 1.0:
        size = (round(image.width * photo.scale), round(image.height * photo.scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _encode(image, photo)


def _encode(image: Image, photo: Photo) -> bytes:
    from PIL import Image as Pillow

    options: dict[str, object] = {"quality": 95} if photo.format != "PNG" else {}
    if photo.orientation == 6:
        # Orientation 6 asks the viewer to turn the image clockwise; so it is stored turned the other way.
        image = image.transpose(Pillow.Transpose.ROTATE_90)
        exif = Pillow.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, photo.format, **options)
    return buffer.getvalue()


# --- the list --------------------------------------------------------------------------------------------------------


def write_list(path: Path, base_url: str) -> None:
    """Writes the sample as JSON lines with LAION's columns: url, caption, punsafe, licence, md5."""
    with path.open("w", encoding="utf-8") as stream:
        for row in sample_rows():
            url = base_url + row.url if row.url is not None and row.url.startswith("/") else row.url
            values = {
                "url": url,
                "caption": row.caption,
                "punsafe": row.punsafe,
                "licence": row.licence,
                "md5": row.md5,
            }
            stream.write(json.dumps(values) + "\n")


def unexpected_outcomes(outcomes: Sequence[str]) -> list[str]:
    """Rows that did not end as listed, one line each; `outcomes` in row order."""
    return [
        f"row {index} ({row.url}): {found}, expected {row.expected}"
        for index, (row, found) in enumerate(zip(sample_rows(), outcomes, strict=True))
        if found != row.expected
    ]
