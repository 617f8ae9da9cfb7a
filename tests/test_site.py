"""The site builds without a warning, holds every name and lesson, and needs no network."""

import html
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from posixpath import dirname, join, normpath
from xml.etree import ElementTree

import pytest

from tests.test_import import PACKAGES

pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("notebooks/*.py"))
GLOSSARY = (ROOT / "docs/pages/glossary.md").read_text("utf-8")
CHINESE = "[\u4e00-\u9fff]+"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built with warnings, such as dead links, as errors."""
    site = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "-q", "-f", ROOT / "docs/mkdocs.yml", "-d", site]
    run = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return site


@pytest.fixture(scope="module")
def pages(site):
    """The pages by their names."""
    return {path.relative_to(site).as_posix(): path.read_text("utf-8")
            for path in site.rglob("*.html")}  # fmt: skip


def main(page):
    """What a page says itself, without navigation."""
    return page.partition("<article")[2].partition("</article>")[0]


def test_every_public_name_has_a_place_and_is_listed(pages):
    index = pages["api/index.html"]
    missing = []
    for package in PACKAGES:
        page = f"{package.__name__.removeprefix('fnn.')}.html"
        for name in package.__all__:
            thing, full = getattr(package, name), f"{package.__name__}.{name}"
            if inspect.ismodule(thing):
                continue
            if f'id="{full}"' not in pages[f"api/{page}"] or f'"{page}#{full}"' not in index:
                missing.append(full)
    assert missing == []


def test_no_page_fetches_anything_from_elsewhere(pages, site):
    loads = r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=[\"']?(https?:|//)[^>]*>"
    found = [f"{name}: {one.group()}" for name in pages for one in re.finditer(loads, pages[name])]
    assert found == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert [one for text in styles for one in re.findall(r"url\([\"']?https?:[^)]*", text)] == []


def dead(pages, exists):
    """What pages link or show and is not there: files, and places in pages."""
    places = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    found = []
    for name, text in pages.items():
        for target in re.findall(r'<[^>]*\b(?:href|src)="([^"]*)"', text):
            path, _, place = html.unescape(target).partition("#")
            if re.match(r"[a-z]+:", path) or path.startswith("//"):
                continue
            file = normpath(join(dirname(name), path.partition("?")[0])) if path else name
            if not exists(file) or (place and file in places and place not in places[file]):
                found.append(f"{name}: {target}")
    return found


def test_every_link_of_the_site_leads_somewhere(pages, site):
    # The page of those who are lost is shown anywhere, so that its links begin at the top.
    here = {name: text for name, text in pages.items() if name != "404.html"}
    assert dead(here, lambda file: (site / file).exists()) == []


def test_dead_links_are_seen():
    pages = {"a/b.html": '<a href="../c.html#x">', "c.html": '<p id="y"><img src="d.png">'}
    assert dead(pages, pages.__contains__) == ["a/b.html: ../c.html#x", "c.html: d.png"]
    assert dead({"a.html": '<a href="#x"><p id="x">'}, {"a.html"}.__contains__) == []


def raw_formulas(page):
    """What of a page is LaTeX that nobody set."""
    text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", main(page), flags=re.S)
    return re.findall(
        r"arithmatex|\$\$|\\[(\[]|\\[a-z]{2,}|\$[^$<]{1,40}[\\^_{][^$<]{0,40}\$", text
    )


def test_formulas_are_set_and_none_is_left_as_it_was_written(pages):
    assert {name: found for name, page in pages.items() if (found := raw_formulas(page))} == {}
    lessons = [pages[f"lessons/{name}.html"] for name in LESSONS]
    assert all(page.count("<math") >= 10 for page in lessons)
    # Those of the API are text in the letters of the code, and stand as they are written.
    assert "sum_i x[..., i] weight[i, o] + bias[o]" in re.sub(r"<[^>]+>", "", pages["api/fnn.html"])


@pytest.mark.parametrize("left", [r"\(x\)", r"a \frac{1}{2}", "$x_1$", '<p class="arithmatex">'])
def test_a_formula_that_is_left_is_seen(left):
    assert raw_formulas(f"<article><p>{left}</p></article>")
    assert not raw_formulas(f"<article><code>{left}</code> for $5 and $6</article>")


# Of how many parts each is made: of others a browser makes an error, or something else.
PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}


def misplaced(page):
    """The parts of formulas that are not what they should be made of."""
    formulas = [ElementTree.fromstring(one) for one in re.findall(r"<math.*?</math>", page, re.S)]
    parts = [part for formula in formulas for part in formula.iter()]
    names = [part.tag.rpartition("}")[2] for part in parts]
    counted = zip(names, map(len, parts), strict=True)
    return [name for name, count in counted if PARTS.get(name, count) != count]


def test_every_formula_is_made_of_the_parts_that_it_should_have(pages):
    assert {name: found for name, page in pages.items() if (found := misplaced(page))} == {}


def test_an_exponent_of_a_bracket_alone_is_seen():
    assert misplaced("<math><msup><mo>(</mo><mi>a</mi><mo>)</mo></msup></math>") == ["msup"]


@pytest.mark.parametrize("formula", [r"\unknown x", "x $$ $$ y", r"\left( x"])
def test_a_formula_that_cannot_be_set_ends_the_build(formula):
    code = f"import formulas; formulas.mathml({formula!r}, block=True)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True
    )
    assert "ValueError" in run.stderr


def test_every_page_says_something(pages):
    plain = {name: re.sub(r"<[^>]+>", "", main(text)) for name, text in pages.items()}
    whole = [name for name in plain if "<article" in pages[name] and name != "404.html"]
    assert [name for name in whole if len(plain[name]) < 500] == []
    assert {"index.html", "concepts.html", "own.html", "speed.html", "api/losses.html"} <= {*whole}


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_a_page_with_its_pictures_and_pages_and_folded_solutions(name, pages, site):
    page, text = pages[f"lessons/{name}.html"], (ROOT / f"notebooks/{name}.py").read_text("utf-8")
    title = re.search(r"^# # (.+)", text, re.M)[1]
    assert f"<title>{title} - fnn</title>" in page
    pictures = re.findall(r'<img src="([^"]+)" alt="([^"]*)"', main(page))
    cells = [
        cell
        for cell in text.split("# %%")
        if re.search(r"plot\.show\(|plt\.show\(|display\(", cell)
    ]
    assert len([one for one in pictures if one[0].startswith(f"{name}/")]) == len(cells)
    assert all(words for _, words in pictures)
    # Folded are the answers to predictions, solutions, and code that is folded in the notebook.
    folded = page.count("<details class=")
    assert folded == text.count("<details>") + text.count('"source_hidden": true')
    assert page.count("Exercise</p>") == text.count('tags=["exercise"]')
    written = re.findall(r'_page\([^"]*"(?:[^"]*"[^"]*")*?(\w+\.html)"', text)
    assert set(re.findall(rf'<iframe src="{name}/([^"]+)"', page)) == set(written)
    # The notebook to take home is that of the page, and was not run yet.
    cells = json.loads((site / f"lessons/{name}/{name}.ipynb").read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def test_every_lesson_has_knobs_and_most_a_page_to_play_with_in_the_site(pages):
    lessons = [name for name in LESSONS if name[0].isdigit()]
    texts = {name: (ROOT / f"notebooks/{name}.py").read_text("utf-8") for name in lessons}
    assert [name for name in lessons if "fnn.plot.show(" not in texts[name]] == []
    with_page = [name for name in lessons if "<iframe src=" in pages[f"lessons/{name}.html"]]
    assert len(with_page) >= 6


def test_every_name_of_the_glossary_leads_to_its_place(pages):
    names = re.findall(r"`(fnn\.[\w.]+)", GLOSSARY)
    page = main(pages["glossary.html"])
    linked = re.findall(r'<a href="api/[^"]*"><code>(fnn\.[\w.]+)', page)
    assert sorted(set(names)) == sorted(set(linked))
    assert len(re.findall(rf"^\| [^|]+ \| {CHINESE}", GLOSSARY, re.M)) >= 80


@pytest.mark.parametrize("name", LESSONS)
def test_every_chinese_term_of_a_lesson_stands_in_the_glossary(name):
    text = (ROOT / f"notebooks/{name}.py").read_text("utf-8")
    assert sorted({term for term in re.findall(CHINESE, text) if term not in GLOSSARY}) == []


def test_both_pages_of_the_course_list_every_lesson():
    for page in ("lessons/index.md", "zh/course.md"):
        text = (ROOT / "docs/pages" / page).read_text("utf-8")
        assert re.findall(r"notebooks/(\w+)\.py\)", text) == LESSONS


def test_the_page_in_chinese_has_the_commands_and_the_script_of_the_readme():
    blocks = [
        re.findall(r"^```.*?^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
        for page in ("README.md", "docs/pages/zh/index.md")
    ]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 3
