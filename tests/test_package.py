"""What is packed and installed: the package and its data, and nothing else."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import fnn

pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
PACKED = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
LARGEST = 2 * 2**20


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, made of a copy: a build writes beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKED:
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("fnn", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source]
    run = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return source / "dist"


def contents(built):
    """The names in the wheel, and those in the sdist without its folder."""
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as other:
        packed = [name.partition("/")[2] for name in other.getnames()]
        return set(archive.namelist()), set(packed)


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built):
    wheel, _ = contents(built)
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fnn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    assert {"fnn/py.typed", "fnn/datasets/digits.npz", "fnn/datasets/MNIST.md"} <= wheel


def test_the_sdist_holds_what_a_build_needs_without_tests_and_benchmarks(built):
    _, sdist = contents(built)
    assert {*PACKED, "fnn/__init__.py", "fnn/datasets/digits.npz"} <= sdist
    assert {name.split("/")[0] for name in sdist} <= {
        "", "fnn", "fnn.egg-info", "PKG-INFO", "setup.cfg", *PACKED,
    }  # fmt: skip


def test_both_are_small_well_formed_and_of_the_version_that_the_package_names(built):
    files = sorted(built.iterdir())
    assert [file.name for file in files] == [
        f"fnn-{fnn.__version__}-py3-none-any.whl", f"fnn-{fnn.__version__}.tar.gz",
    ]  # fmt: skip
    assert max(file.stat().st_size for file in files) < LARGEST
    run = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("PASSED") == 2


def test_every_extra_is_told_of_where_installing_is():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    page = (ROOT / "docs/pages/how_to.md").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page.partition("## Install")[2], re.M)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(extras)


@pytest.mark.parametrize("missing", ["typer", "matplotlib"])
def test_without_the_extra_the_command_says_in_one_line_what_to_install(built, tmp_path, missing):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import runpy, sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def without(name, *rest):\n"
        f"    return None if name.split('.')[0] == {missing!r} else find(name, *rest)\n"
        "PathFinder.find_spec = without\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "runpy.run_module('fnn', run_name='__main__', alter_sys=True)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == (
        f"Error: python -m fnn: expected the package {missing}, got none installed; "
        "install the extra with pip install 'fnn[run]'\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_citation_and_the_package_name_one_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {fnn.__version__}\n" in citation
