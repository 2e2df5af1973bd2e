"""The quickstart's videos: real H.264 files, made from the photos that ship in scikit-image.

Slow pans and zooms over a photo, one with a hard cut in the middle, one that stands still and is turned down for it.
Same bytes in every run: one encoder thread, no dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from lposekit.errors import UsageError
from lposekit.shards.files import replacing
from pipelines.quickstart.photos import data_folder

FPS = 24
SIZE = 256
View = tuple[float, float, float]
"""Centre x and y, and side, of a square part of a photo, as shares of the photo's shorter side."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A camera move over one photo."""

    photo: str
    start: View
    end: View
    seconds: float


@dataclass(frozen=True, slots=True)
class SampleVideo:
    """One video of the sample. `expected`: its outcome; `cuts_s`: the hard cuts in it."""

    name: str
    caption: str
    shots: tuple[Shot, ...]
    expected: str = "kept"

    @property
    def cuts_s(self) -> list[float]:
        ends = np.cumsum([shot.seconds for shot in self.shots])
        return [float(end) for end in ends[:-1]]


SAMPLE_VIDEOS = (
    SampleVideo(
        "astronaut-zoom",
        "the camera slowly moves closer to an astronaut in an orange suit",
        (Shot("astronaut.png", (0.5, 0.5, 1.0), (0.45, 0.35, 0.5), 6.0),),
    ),
    SampleVideo(
        "photographer-pan",
        "the camera pans over a photographer on a lawn, black and white",
        (Shot("camera.png", (0.3, 0.45, 0.6), (0.7, 0.45, 0.6), 6.0),),
    ),
    SampleVideo(
        "cat-pan",
        "the camera pans over the face of a cat",
        (Shot("chelsea.png", (0.55, 0.5, 0.8), (0.95, 0.5, 0.8), 4.0),),
    ),
    SampleVideo(
        "rocket-then-coffee",
        "a rocket on its launch pad, then a cup of coffee",
        (
            Shot("rocket.jpg", (0.75, 0.6, 0.9), (0.75, 0.45, 0.7), 4.0),
            Shot("coffee.png", (0.6, 0.5, 0.7), (0.8, 0.5, 0.95), 4.0),
        ),
    ),
    SampleVideo(
        "coffee-still",
        "a cup of coffee, and nothing moves",
        (Shot("coffee.png", (0.7, 0.5, 0.9), (0.7, 0.5, 0.9), 3.0),),
        expected="no_clip",
    ),
)


def write_sample_videos(folder: Path) -> Path:
    """Write the sample's videos and captions into `folder`, unless they are there; returns it.

    Raises:
        UsageError: the folder holds something else, which is not to be mixed with them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours = {f"{video.name}{suffix}" for video in SAMPLE_VIDEOS for suffix in (".mp4", ".txt")}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours and path.suffix != ".partial")
    if foreign:
        raise UsageError(
            f"the sample videos go to {folder}, which holds something else ({foreign[0]}). Name another --output, or "
            "build your own videos with --input."
        )
    for video in SAMPLE_VIDEOS:
        path = folder / f"{video.name}.mp4"
        if not path.exists():
            with replacing(path) as partial:
                _write_video(partial, video)
        path.with_suffix(".txt").write_text(video.caption + "\n", encoding="utf-8")
    return folder


def _write_video(path: Path, video: SampleVideo) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "23"}
        for shot in video.shots:
            for rgb_HWC in _frames(shot):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb_HWC, "rgb24")))
        container.mux(stream.encode())


def _frames(shot: Shot) -> Iterator[npt.NDArray[np.uint8]]:
    """The images of one camera move, uint8 [SIZE, SIZE, 3] RGB."""
    bgr_HWC = cv2.imread(str(data_folder() / shot.photo), cv2.IMREAD_COLOR)
    assert bgr_HWC is not None, shot.photo
    photo_HWC = np.ascontiguousarray(bgr_HWC[:, :, ::-1]).astype(np.uint8, copy=False)
    num_frames = round(shot.seconds * FPS)
    for i in range(num_frames):
        share = i / (num_frames - 1)
        view = np.array(shot.start) * (1 - share) + np.array(shot.end) * share
        yield _crop(photo_HWC, *(view * min(photo_HWC.shape[:2])))


def _crop(photo_HWC: npt.NDArray[np.uint8], x: float, y: float, side: float) -> npt.NDArray[np.uint8]:
    """A square part of a photo, with fractions of pixels, scaled to the video's size."""
    scale = SIZE / side
    matrix = np.array([[scale, 0, SIZE / 2 - scale * x], [0, scale, SIZE / 2 - scale * y]], np.float32)
    image = cv2.warpAffine(photo_HWC, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return image.astype(np.uint8, copy=False)
