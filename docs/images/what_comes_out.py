"""Draw the image of README's first screen from what the quickstarts build.

    lposekit build-laion-pose --output IMAGES; lposekit build-video-shards --output CLIPS
    python docs/images/what_comes_out.py IMAGES CLIPS

Needs chromium, for the report. The photos are those of the quickstart, which may be shown (see NOTICE).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lposekit import PoseSample, open_dataset
from lposekit.stored_media import open_clip

SIDE, GAP, MARGIN, TEXT = 220, 12, 16, 44
OUT = Path(__file__).with_name("what-comes-out.jpg")
PHOTO = "an astronaut in an orange suit"


def fitted(image: Image.Image, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Scaled and cropped in the middle to fill the tile."""
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def report_page(dataset: Path) -> Image.Image:
    """The upper part of a dataset's page, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        page = (dataset / "_dataset" / "report" / "index.html").resolve()
        command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=980,980"]
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120)
        return Image.open(shot).convert("RGB")


def chosen(dataset: Path) -> PoseSample:
    return next(sample for sample in open_dataset(dataset) if sample.caption.startswith(PHOTO))


def main() -> None:
    images, clips = map(Path, sys.argv[1:])
    sample, clip = chosen(images), open_dataset(clips)[0]
    with open_clip(clip.members["mp4"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picked = [frames[int(place)] for place in np.linspace(0, len(frames) - 1, 4)]
    film = Image.new("RGB", (SIDE, SIDE))
    for number, frame in enumerate(picked):
        tile = fitted(Image.fromarray(frame), SIDE // 2 - 2, SIDE // 2 - 2)
        film.paste(tile, (number % 2 * (SIDE // 2 + 2), number // 2 * (SIDE // 2 + 2)))
    tiles = [
        (fitted(Image.fromarray(sample.rgb_HWC)), "KEY.jpg, KEY.txt", f"“{sample.caption}”"),
        (fitted(Image.fromarray(sample.skeleton())), "KEY.pose.json", "17 keypoints a person, drawn"),
        (film, "KEY.mp4, KEY.txt", "captioned clips, no poses"),
        (fitted(report_page(images)), "report", "every row has one outcome"),
    ]
    canvas = Image.new("RGB", (2 * MARGIN + 4 * SIDE + 3 * GAP, 2 * MARGIN + SIDE + TEXT), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (tile, name, what) in enumerate(tiles):
        left = MARGIN + number * (SIDE + GAP)
        canvas.paste(tile, (left, MARGIN))
        draw.text((left, MARGIN + SIDE + 6), name, fill="black", font=ImageFont.load_default(15))
        draw.text((left, MARGIN + SIDE + 26), shortened(draw, what), fill="#555555", font=ImageFont.load_default(13))
    canvas.save(OUT, quality=85)


def shortened(draw: ImageDraw.ImageDraw, text: str) -> str:
    font = ImageFont.load_default(13)
    while draw.textlength(text, font=font) > SIDE:
        text = text.removesuffix("…”")[:-1] + "…”"
    return text


if __name__ == "__main__":
    main()
