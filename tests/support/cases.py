"""The failures and attacks that lposekit must survive, by number. `@pytest.mark.case(NN)` says which a test proves.

A case found later gets the next number; numbers are never used again.
"""

from __future__ import annotations

CASES = {
    # addresses and answers
    1: "an address that is none of the web's: file:, ftp:, data:, empty, no address at all",
    2: "a host that leads to a private address, in any spelling",
    3: "a redirect that leads to a private address",
    4: "a name that is public when checked and private when dialled",
    5: "redirects in a circle, too many, or out of the web",
    6: "a body without end or length",
    7: "a length of 50 GB in the header",
    8: "an answer that drips, stops after its headers, or never comes",
    9: "a gzip bomb, stacked encodings, bytes behind the end",
    10: "a body cut short, a connection reset, a failed TLS handshake",
    11: "gone for ever, and busy for now with Retry-After",
    12: "the network is down: every host fails",
    13: "HTML, SVG, PDF, MP4 or nothing, served as image/jpeg",
    14: "a JPEG served as text/html",
    # images and their models
    15: "a PNG of 400 megapixels in 48 KB, odd shapes, odd kinds of pixels",
    16: "half a JPEG, or random bytes behind its header",
    17: "a decoder that crashes, never ends, or eats memory",
    18: "EXIF orientations and GPS",
    19: "other content than the list's hash says",
    20: "captions that are empty, huge, not UTF-8, or full of control characters",
    21: "a list without a column, with empty or repeated addresses, or cut short",
    22: "nobody, half of the keypoints, scores that are no numbers, several persons",
    23: "a model that fails on an image, answers in a wrong shape, or runs out of memory",
    # processes, folders, disks
    24: "a worker killed within a shard",
    25: "a row that kills its worker every time",
    26: "a worker that raises",
    27: "the driver killed, or the machine restarted",
    28: "two drivers on one folder",
    29: "the disk full at any point of a shard",
    30: "an output that cannot be written, or is full of other files",
    31: "other settings in the same folder",
    32: "Ray's object store full: accounts are small, work waits for a free worker",
    33: "a shard cut, emptied, with a bit flipped or with more behind its end",
    34: "a shard with paths, links, devices, huge headers, twin names or foreign members",
    35: "two shards with the same keys",
    # videos
    36: "videos cut, without index, frames, rate or video, of 8K, of ten hours",
    37: "a video with damaged frames that decodes",
    38: "a video program that hangs or leaves parts of files",
    39: "a clip that ends early, or would span a cut",
    # training
    40: "a training killed at random moments",
    41: "a training killed while it saves",
    42: "a newest checkpoint that is cut, changed, empty or incomplete",
    43: "the disk full while a checkpoint is saved",
    44: "old checkpoints removed though the newest is broken",
    45: "resumed on more or fewer processes",
    46: "resumed with another number of loader workers",
    47: "resumed at or behind the end of an epoch, or with changed data",
    48: "ranks with unequal shards",
    49: "one rank dies",
    50: "a loss that is not finite, on one rank or all",
    51: "a loader worker that is killed or raises",
    52: "a checkpoint of a stranger, with a pickle or impossible offsets",
    53: "stage 2 with a pose encoder of another size",
    # surroundings
    54: "locale, umask, odd paths",
    55: "an owner who opts out",
    56: "a row that needs more memory than there is, every time",
    57: "Ctrl-C, once and twice",
    # transport
    58: "a negative chunk size before endless bytes",
    59: "a chunk size that breaks the reader, in a row of a video",
    60: "lengths that are no plain number or contradict each other; interim answers",
    61: "a host that hangs or drips, with a tenth of the rows",
    62: "robots.txt made to be slow",
    63: "addresses of transition ranges; a resolver's answer that is no address",
    64: "proxies and .netrc of the environment",
    65: "addresses with users, passwords or tokens in their query",
    66: "the environment of the program that fetches from platforms",
    # lists
    67: "paths of a list, or links in a folder, that lead outside",
    68: "a JSON line of 100,000 brackets",
    69: "times out of range, twin columns, columns and cells without end, small files that unfold",
    70: "a list named like a withdrawn one",
    # what strangers made
    71: "files of a dataset that are links",
    72: "a clip that is a list of other files",
    73: "pipes, devices and deep JSON where files are expected",
    74: "a card or marker that names files elsewhere",
    75: "an index, an image, a pose or a table that says what cannot be",
    76: "a hash beside the weights that vouches for them",
    77: "NaN in JSON; control characters in names and messages",
    78: "the builder's folders in a published card",
    # crash and concurrency
    79: "a node dies and its work waits for ever",
    80: "a worker declared dead goes on writing",
    81: "a pose actor killed from outside, again and again",
    82: "SIGTERM",
    83: "too few open files allowed",
    84: "kills during cache-latents, refilter, retry, view, verify",
    85: "the clock jumps, the memory limit is reached, a node or the head is lost",
    # cost
    86: "small images that take long to decode",
    87: "10,000 hosts once each, one host 10,000 times",
    # what a person meets
    88: "weights missing, and no network",
    89: "the sample server loses a client",
    90: "an extra is not installed",
    91: "progress and totals that mean what they say",
    92: "nothing to do",
    93: "a wrong folder named",
    # later
    94: "a decoder's child killed from outside",
    95: "started with SIGINT ignored",
}
"""Number -> what happens."""
