"""Contract: the README's path of one record names files that exist, links lead somewhere, pins are complete."""

from __future__ import annotations

import re

from tests.support.fixtures import REPOSITORY


def test_every_file_in_the_readmes_path_table_exists() -> None:
    # Mutation: a table row with a wrong file name -> red.
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = readme.split("## The path of one record")[1].split("\n\n")[1]
    files = re.findall(r"`([\w/]+\.py)`", table)
    assert len(files) >= 12
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []


def test_every_relative_link_of_the_pages_leads_somewhere() -> None:
    broken = []
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            if not (page.parent / link).exists():
                broken.append(f"{page.relative_to(REPOSITORY)}: {link}")
    assert broken == []


def test_the_pins_are_what_the_makefile_installs_and_name_every_package_once() -> None:
    lines = (REPOSITORY / "lposekit" / "pins.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")]
    assert len(names) == len(set(names))
    assert {"torch", "mmpose", "mmdet", "mmcv-lite", "ray", "img2dataset"} <= set(names)
    assert not {"torchvision", "chumpy", "xtcocotools", "opencv-python"} & set(names)
