"""The download half of the hand-made pipeline: `img2dataset.download` into tars, with two processes.

    python -m tests.benchmarks.img2dataset_download WORK LIST [--rows-per-shard 50] [--stock]

One TLS context a process: under Python 3.11 urllib reads the whole bundle of certificates again for every request
unless an opener is installed. img2dataset has no option for it and starts its processes with "spawn", but each of these
imports the main module of the program once more, so that a line at the top of the user's script reaches all of them.
`--stock` leaves it out, and keeps img2dataset's own defaults of what else is tuned here.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import urllib.request

# "__mp_main__" is the name under which a spawned process imports the main module.
if __name__ in ("__main__", "__mp_main__") and "--stock" not in sys.argv:
    _TLS = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    urllib.request.install_opener(urllib.request.build_opener(_TLS))

PROCESSES, THREADS = 2, 16
# As `lposekit build-laion-pose` treats images; no EXIF, which neither of the two then uses. A JPEG that is small enough
# is stored as it came: the fastest that img2dataset has.
TUNED = {
    "thread_count": THREADS,
    "min_image_size": 64,
    "max_aspect_ratio": 8.0,
    "extract_exif": False,
    "skip_reencode": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", help="folder; the tars go to WORK/tars")
    parser.add_argument("list", help="jsonl with url and caption")
    parser.add_argument("--rows-per-shard", type=int, default=50)
    parser.add_argument("--stock", action="store_true")
    options = parser.parse_args()
    import img2dataset

    img2dataset.download(
        url_list=options.list,
        input_format="jsonl",
        url_col="url",
        caption_col="caption",
        output_folder=f"{options.work}/tars",
        output_format="webdataset",
        processes_count=PROCESSES,
        image_size=512,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=95,
        number_sample_per_shard=options.rows_per_shard,
        enable_wandb=False,
        **({} if options.stock else TUNED),
    )


if __name__ == "__main__":
    main()
