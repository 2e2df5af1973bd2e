"""What parent and child of a sandbox send each other: messages of one length, which none can send by halves."""

from __future__ import annotations

import struct

MESSAGE = struct.Struct("<cQQi")
"""Kind; place and length of the payload's JSON in the arena; number of its slot, or -1."""
CALL, BEAT, ANSWER, REJECTED, OUT_OF_MEMORY = b"C", b"B", b"A", b"J", b"M"
