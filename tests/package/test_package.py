"""Contract of what is published: the wheel holds every file of the packages and nothing else, the source archive makes
the same wheel, the base installs into an empty environment and reads a dataset there, and each extra names what the
pinned set has. Run by `make test-package`; the clean install asks the package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lposekit
from tests.support.fixtures import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PACKAGES = ("lposekit/", "pipelines/", "trainer/")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DATASET = REPOSITORY / "tests" / "compat" / "v0.1" / "images"
READ = f"import lposekit, sys; print(len(lposekit.open_dataset({str(DATASET)!r})), 'torch' in sys.modules)"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def build(source: Path, kind: str, output: Path) -> Path:
    """The wheel or source archive of a source folder, as any front end has it built."""
    output.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made of the tracked files alone."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    return build(source, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of the source archive."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    [folder] = unpacked.iterdir()
    return build(folder, "wheel", tmp_path_factory.mktemp("wheel"))


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in an environment that knows nothing of this checkout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LPOSEKIT_", "PYTHON"))}
    return subprocess.run(command, cwd=cwd, env=inherited, check=False, capture_output=True, text=True)


def test_the_wheel_holds_every_file_of_the_packages_the_licences_and_nothing_else(wheel: Path) -> None:
    # Mutation tried: `smallworld/base/*/*` left out of `package-data` -> the base is missing.
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in tracked() if name.startswith(PACKAGES)}
    about = f"lposekit-{lposekit.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == wanted
    assert {f"{about}licenses/LICENSE", f"{about}licenses/NOTICE", f"{about}entry_points.txt"} <= names


def test_the_source_archive_holds_what_belongs_to_a_release_and_no_tests(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    pages = {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "pyproject.toml"}
    assert pages <= names
    assert not [name for name in names if name.startswith(("tests", ".ci", "docs"))]


def test_the_base_installs_into_an_empty_environment_and_reads_a_dataset(wheel: Path, tmp_path: Path) -> None:
    # Mutation tried: `pyarrow` left out of the dependencies.
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / "bin"
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    done = run([*pip, "install", "--quiet", "--only-binary=:all:", wheel], tmp_path)
    assert done.returncode == 0, done.stderr
    assert run([*pip, "check"], tmp_path).returncode == 0
    here = run([programs / "python", "-c", READ], tmp_path)
    assert here.stdout.split() == ["3", "False"], here.stderr
    assert run([programs / "lposekit", "--version"], tmp_path).stdout == f"lposekit {lposekit.__version__}\n"
    for call in (["--help"], ["verify", DATASET], ["init"], ["weights", "--help"], ["doctor"], ["weights"]):
        done = run([programs / "lposekit", *call], tmp_path)
        assert done.returncode in ((0, 1) if call[0] in ("doctor", "weights") else (0,)), (call, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
        assert "unexpected" not in done.stderr, (call, done.stderr)
    for command in ("build-laion-pose", "train", "build-video-shards", "view"):
        done = run([programs / "lposekit", command, *([DATASET] if command == "view" else [])], tmp_path)
        assert done.returncode in (1, 2), (command, done.stdout)
        assert "Traceback" not in done.stderr


def test_each_extra_names_distributions_that_the_pinned_set_has_in_a_version_that_fits() -> None:
    # Mutation tried: `simplejpeg>=2` in the extra `build`.
    for extra, lines in {"": PROJECT["dependencies"], **EXTRAS}.items():
        for line in lines:
            wanted = Requirement(line)
            if wanted.name == "yt-dlp":
                continue  # nothing here needs it: its sites change faster than any pin
            assert wanted.specifier.contains(metadata.version(wanted.name), prereleases=True), (extra, line)


def test_the_wheel_with_all_extras_runs_the_commands_from_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """The pinned set stands in for the extras' own dependencies, which are gigabytes."""
    venv.create(tmp_path / "env", with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    (site / "zz_pinned.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = tmp_path / "env" / "bin" / "python"
    where = run([python, "-c", "import lposekit, trainer; print(lposekit.__file__, trainer.__file__)"], tmp_path)
    assert where.stdout.count(str(tmp_path)) == 2, where.stdout + where.stderr
    lposekit_command = [python, "-m", "lposekit"]
    for call in (["build-video-shards", "--output", "clips"], ["sample", "--help"]):
        done = run([*lposekit_command, *call], tmp_path)
        assert done.returncode == 0, (call, done.stderr[-2000:])
    assert (tmp_path / "clips" / "_dataset" / "report" / "index.html").exists()
    read = "from trainer.model.base import load_base; load_base('smallworld')"
    done = run([python, "-c", read], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
