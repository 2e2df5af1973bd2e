"""What a server calls its answer decides nothing: the bytes do."""

from __future__ import annotations

import pytest

from lposekit.errors import Outcome, Rejected
from pipelines.image.decode import decode_image
from pipelines.image.settings import ImageSettings
from tests.pipelines.fetch.conftest import opener_for
from tests.support.bad_server import BadServer
from tests.support.misbehaviours import FOREIGN_BODIES

pytestmark = pytest.mark.timeout(180)


# Mutation: return "jpeg" from `sniff` for everything, or trust Content-Type.
@pytest.mark.parametrize("kind", sorted(FOREIGN_BODIES))
@pytest.mark.case(13)
def test_other_files_served_as_image_jpeg_are_no_images(server: BadServer, kind: str) -> None:
    fetched = opener_for(server).fetch(f"{server.url}/body/{kind}")
    assert fetched.headers["Content-Type"] == "image/jpeg"
    with pytest.raises(Rejected) as caught:
        decode_image(fetched.body, ImageSettings())
    assert caught.value.outcome is Outcome.NOT_IMAGE


# Mutation: refuse answers whose Content-Type does not begin with image/.
@pytest.mark.case(14)
def test_a_jpeg_served_as_text_html_is_an_image(server: BadServer) -> None:
    fetched = opener_for(server).fetch(f"{server.url}/body/jpeg-as-html")
    assert fetched.headers["Content-Type"] == "text/html"
    assert decode_image(fetched.body, ImageSettings()).rgb_HWC.shape == (64, 96, 3)
