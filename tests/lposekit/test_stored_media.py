"""Contract: the image and the clip of a sample are a JPEG and an mp4 of sane sizes, whatever else lies there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lposekit.report.clip_strips import three_frames
from tests.support.train_data import clip_members
from trainer.data.decode import DamagedSample, Framing, decode_clip
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom

LISTS = {
    "ffconcat": b"ffconcat version 1.0\nfile private.mp4\n",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nprivate.ts\n#EXT-X-ENDLIST\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "text for ansi art": b"\x1b[31mprivate\n" * 100,
    "y4m": b"YUV4MPEG2 W16 H16 F25:1 C420\nFRAME\n" + bytes(384),
}


@pytest.mark.case(72)
@pytest.mark.parametrize("name", LISTS)
def test_a_member_that_is_no_mp4_is_no_clip_and_reads_no_other_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutations tried: without the format -> red for `y4m`; without both -> `ffconcat` gives frames of private.mp4.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.mp4").write_bytes(clip_members(0)["mp4"])
    with pytest.raises(DamagedSample, match="cannot be decoded"):
        decode_clip(LISTS[name], np.array([0]), Framing(64), SampleRandom(0, SampleRef(0, 0, 0, 0)))
    assert three_frames({"mp4": LISTS[name]}, 20, 10.0) == []
