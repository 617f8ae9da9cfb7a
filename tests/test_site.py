"""The site builds without a warning, holds every name and lesson, and needs no network."""

import ast
import html
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from posixpath import dirname, join, normpath
from xml.etree import ElementTree

import pytest

from tests.test_house import PUBLIC, parameters
from tests.test_import import PACKAGES
from tests.test_readme import PAGES as SOURCES
from tests.xla import in_haste

pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent
LESSONS = sorted(path.stem for path in ROOT.glob("notebooks/*.py"))
EXAMPLES = sorted(path.stem for path in ROOT.glob("examples/[!_]*.py"))
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


def places(pages):
    """The pages of the API where each public name is said to stand, and where it stands."""
    listed, there = defaultdict(list), defaultdict(list)
    for name, full in re.findall(r'href="([\w.]+)\.html#(fnn\.[\w.]+)"', pages["api/index.html"]):
        listed[full].append(name)
    for file in pages:
        for full in re.findall(r'<h2 id="(fnn\.[\w.]+)"', pages[file]):
            there[full].append(file.removeprefix("api/").removesuffix(".html"))
    return listed, there


def misplaced_names(pages):
    """The public names that do not stand once in the index and once on the page that it links."""
    listed, there = places(pages)
    public = {
        f"{package.__name__}.{name}"
        for package in PACKAGES
        for name in package.__all__
        if not inspect.ismodule(getattr(package, name))
    }
    known = public | {*listed, *there}
    return {one for one in known if not (listed[one] == there[one] and len(there[one]) == 1)}


def test_every_public_name_has_one_place_and_is_listed_once(pages):
    assert misplaced_names(pages) == set()


def test_a_public_name_without_a_place_or_with_two_is_seen():
    heads = '<h2 id="fnn.{}">', '<a href="{}.html#fnn.{}">'
    pages = {
        "api/layers.html": "".join(map(heads[0].format, ["dense", "conv", "relu", "gelu"])),
        "api/losses.html": heads[0].format("gelu"),
        "api/index.html": "".join(
            heads[1].format("losses" if name == "relu" else "layers", name)
            for name in ("dense", "relu", "gelu", "elu")
        ),
    }
    missing = misplaced_names(pages)
    assert "fnn.dense" not in missing
    assert {"fnn.conv", "fnn.relu", "fnn.gelu", "fnn.elu", "fnn.losses.hinge"} <= missing


def test_no_page_of_the_api_is_too_long_for_a_phone(pages):
    long = {name: page.count("</") for name, page in pages.items() if name.startswith("api/")}
    assert {name: count for name, count in long.items() if count > 5000} == {}


def test_search_finds_every_public_name_as_it_is_typed(site):
    text = (site / "search/search_index.js").read_text("utf-8").partition("=")[2]
    found = json.loads(text)
    places = {one["location"] for one in found["docs"]}
    assert [name for name in PUBLIC if not any(one.endswith(f"#{name}") for one in places)] == []
    # A name is sought as the beginning of a word: words are not to be cut to their stems.
    assert found["config"]["pipeline"] == ["stopWordFilter"]


def wordless(listed, names):
    """Which parameters have no words in a list of the page of a public name."""
    rows = re.findall(r"<li>(?:<p>)?<code>([^<]+)</code>:\s*(.*?)(?:</p>|</li>|$)", listed, re.S)
    said = {name.strip(" *") for names, words in rows if words for name in names.split(",")}
    return [name for name in names if name not in said]


def sections(pages):
    """What is said of each public name, where it has its place."""
    return {
        full: pages[f"api/{name}.html"].partition(f'id="{full}"')[2].partition("<h2 ")[0]
        for full, (name,) in places(pages)[1].items()
    }


def test_every_parameter_of_a_public_name_has_words_on_its_page(pages):
    said = sections(pages)
    found = {full: wordless(said[full], parameters(PUBLIC[full])) for full in PUBLIC}
    assert {full: names for full, names in found.items() if names} == {}


def lost(said, shown):
    """The words of a docstring that its page does not show as often."""
    shown = html.unescape(re.sub(r"<[^>]+>", "", shown))
    counts = [Counter(re.findall(r"[A-Za-z0-9]+", text)) for text in (said, shown)]
    return sorted(counts[0] - counts[1])


def test_no_word_of_a_docstring_is_lost_on_its_page(pages):
    said = sections(pages)
    found = {full: lost(inspect.getdoc(PUBLIC[full]) or "", said[full]) for full in PUBLIC}
    assert {full: words for full, words in found.items() if words} == {}


def test_a_word_that_is_lost_is_seen():
    said = "Dense. y = x W\n\nArgs:\n    width: of y"
    shown = "<p>Dense.</p>\n<pre>y = x W</pre>\n<b>Args</b>\n"
    assert lost(said, f"{shown}<li><code>width</code>: of y</li>") == []
    assert lost(said, shown) == ["of", "width", "y"]


def test_a_parameter_without_words_is_seen():
    listed = "<ul><li><code>x</code>: an array.</li><li><code>*layers</code>:</li></ul>"
    assert wordless(listed, ["x", "layers", "key"]) == ["layers", "key"]
    assert wordless("<li><code>a, b</code>: two</li>", ["a", "b"]) == []


# What runs blocks of each language: tests/test_readme.py, or a test of this file.
RUN = {"python", "pycon", "py"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
PROGRAMS = {"ruff", "mypy", "mkdocs", "twine", "pre-commit", "pip-audit", "jupytext", "jupyter",
            "srun"}  # fmt: skip


def is_command(line):
    """Whether a line starts programs that there are, on what there is for them."""
    line = re.sub(r"  +#.*", "", line)
    if line.startswith("#SBATCH "):
        return True
    for words in re.split(r" && | & ", line):
        found = re.fullmatch(r"(?:[A-Z_]+=\S+ )*(\S+)(?: -m (\S+)| ([^-]\S*))?.*", words.strip())
        if not found:
            return False
        program, module, argument = found.groups()
        if program == "python" and module:
            right = bool(importlib.util.find_spec(module))
        elif program in ("python", "bash"):
            # One that the text of the page tells the reader to write.
            right = argument == "train.py" or (ROOT / argument).exists()
        elif program == "pip":
            named = re.search(r"\[([\w,]+)\]", words)
            right = not named or set(named[1].split(",")) <= set(EXTRAS)
        else:
            right = program in PROGRAMS
        if not right:
            return False
    return True


def not_run(text):
    """The blocks of a page that nothing runs: neither code nor commands that there are."""
    found = []
    for language, block in re.findall(r"^ *```(.*)\n((?:.*\n)*?) *```$", text, re.M):
        lines = [line for line in block.splitlines() if line.strip()]
        # The contract of a layer in a table of signatures is no code.
        signatures = all(re.match(r"\w+ +:: \(", line) for line in lines)
        commands = not language and all(map(is_command, lines))
        if language not in RUN and not commands and not (signatures and not language):
            found.append(block)
    return found


@pytest.mark.parametrize("page", SOURCES)
def test_every_block_of_code_is_run_and_every_command_is_one(page):
    assert not_run(SOURCES[page]) == []


@pytest.mark.parametrize(
    "block", ["bash\npython -m fnn", "\nx = fnn.fit(", "\npython -m fnn.nothing --epochs 2",
              "\npython examples/nothing.py", '\npip install "fnn[nothing]"', "\nsudo rm x"],
)  # fmt: skip
def test_a_block_that_nothing_runs_is_seen(block):
    assert not_run(f"Text.\n\n```{block}\n```\n")


# What the program of several processes takes from the page around it, small, and where it runs.
BEFORE = """
import numpy as np
import fnn
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
data, model = (x, x[:, :1]), fnn.dense(1)
loss, optimizer = fnn.losses.squared_error(), fnn.optim.adam(0.01)
"""
AFTER = """
print("steps", int(trained.step))
"""


def test_the_program_of_several_processes_runs_and_goes_on_where_it_was_cut_off(tmp_path):
    (program,) = re.findall(r"^```py\n(.*?)```", SOURCES["docs/pages/sharding.md"], re.M | re.S)
    setting_up, imported, training = program.partition("import fnn\n")
    assert imported
    # One process, which needs no second machine, and few steps.
    for number, smaller in (("10_000", "{steps}"), ("steps=500", "steps=2")):
        assert number in training
        training = training.replace(number, smaller)
    port = 20000 + os.getpid() % 20000
    setting_up = setting_up.replace("12345", str(port)).replace(
        "num_processes=2", "num_processes=1"
    )
    code = "".join([setting_up, BEFORE, training.replace("256", "16"), AFTER])
    for steps in (3, 5):
        run = subprocess.run(
            [sys.executable, "-c", code.replace("{steps}", str(steps))], cwd=tmp_path,
            capture_output=True, text=True, timeout=300,
            env=os.environ | {"PROCESS": "0"} | in_haste(),
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert f"steps {steps}" in run.stdout


def test_no_page_fetches_anything_from_elsewhere(pages, site):
    loads = r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=[\"']?(https?:|//)[^>]*>"
    found = [f"{name}: {one.group()}" for name in pages for one in re.finditer(loads, pages[name])]
    assert found == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert [one for text in styles for one in re.findall(r"url\([\"']?https?:[^)]*", text)] == []


def spilled(page):
    """What of a tag is read as text: one whose end stood in the words to a picture, say."""
    return re.findall(r'\b(?:alt|loading)="[^"]*"', re.sub(r"<[^<>]+>", "", main(page)))


def test_no_tag_is_read_as_text(pages):
    shown = {name: re.sub(r"<pre\b.*?</pre>", "", page, flags=re.S) for name, page in pages.items()}
    assert {name: found for name, page in shown.items() if (found := spilled(page))} == {}


def test_a_tag_that_is_read_as_text_is_seen():
    broken = '<article><img alt="<math><mo>&gt;</mo></math> 1" class="picture"></article>'
    assert spilled(broken)
    assert not spilled('<article><img alt="y &gt; 1" class="picture"></article>')


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
    assert "sum_i x[..., i] weight[i, o] + bias[o]" in re.sub(
        r"<[^>]+>", "", pages["api/layers.html"]
    )


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


SET = {
    "z = -8": '<mo form="prefix">&#x02212;</mo><mn>8</mn>',
    "(a) - b": "</mo><mo>&#x02212;</mo><mi>b</mi>",
    r"(-1, +1)": '<mo form="prefix">&#x0002B;</mo><mn>1</mn>',
    r"|a| - 1": '<mi>a</mi><mo lspace="0" rspace="0" stretchy="false">&#x0007C;</mo><mo>&#x02212;',
    r"\log 2": '<mi>log</mi><mspace width="0.167em" /><mn>2</mn>',
}


def test_signs_of_numbers_bars_and_names_of_functions_stand_as_in_print():
    code = "import formulas, sys\nfor one in sys.argv[1:]: print(formulas.mathml(one, block=False))"
    run = subprocess.run(
        [sys.executable, "-c", code, *SET], cwd=ROOT / "docs", capture_output=True, text=True
    )
    lines = run.stdout.splitlines()
    assert [one for one, line in zip(SET, lines, strict=True) if SET[one] not in line] == []


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
    assert {
        "index.html",
        "concepts.html",
        "own.html",
        "speed.html",
        "gallery.html",
        "proofs.html",
        "api/losses.html",
    } <= {*whole}


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


def in_gallery(page, name):
    """What the gallery says of an example."""
    return main(page).partition(f'<h2 id="{name}"')[2].partition("<h2 ")[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_stands_in_the_gallery_with_what_it_drew_and_printed_and_its_code(
    name, pages, site
):
    page, text = pages["gallery.html"], (ROOT / f"examples/{name}.py").read_text("utf-8")
    section = in_gallery(page, name)
    assert f'<a href="#{name}">' in page
    title = ast.get_docstring(ast.parse(text)).partition("\n")[0]
    assert html.escape(title, quote=False) in section
    drawn = set(re.findall(r"``(\w+\.png)``", text))
    assert set(re.findall(r'<img src="gallery/([^"]+)" alt="[^"]+"', section)) == drawn
    assert all((site / "gallery" / picture).stat().st_size > 5_000 for picture in drawn)
    printed = re.search(r'<div class="[^"]*output[^"]*"><pre>(.*?)</pre>', section, re.S)[1]
    assert re.search(r"\d", re.sub(r"<[^>]+>", "", printed))
    assert section.count("<details class=") == 1
    assert (site / f"examples/{name}.py").read_text("utf-8") == text


def test_the_gallery_shows_the_folder_that_an_example_was_executed_in(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    gallery = importlib.import_module("gallery")
    (tmp_path / "fnn-run").mkdir()
    (tmp_path / "fnn-run/vae.png").write_bytes(b"")
    (tmp_path / "printed.txt").write_text("manual loss 7 -> 5\n", "utf-8")
    section = gallery.section(ROOT / "examples/vae.py", tmp_path)
    assert "\nmanual loss 7 -> 5\n```" in section
    assert '<img src="gallery/vae.png"' in section


def test_programs_of_two_libraries_are_columns_with_fnn_on_the_right(pages):
    page = main(pages["coming_from.html"])
    columns = [one.partition("<h2")[0] for one in page.split('<div class="columns">')[1:]]
    assert len(columns) == len([*ROOT.glob("examples/coming_from/from_*.py")])
    for one in columns:
        theirs, _, ours = re.sub(r"<[^d/][^>]*>|</(?!div)[^>]*>", "", one).partition(
            "</div>\n<div>"
        )
        assert re.search(r"def in_(?!fnn)\w+\(", theirs)
        assert re.findall(r"def (in_\w+)\(", ours) == ["in_fnn"]


def test_every_public_package_is_named_where_versions_say_what_is_public():
    public = SOURCES["docs/pages/versions.md"].partition("**Public** is what")[2]
    named = re.findall(r"`(fnn[\w.]*)`", public.partition("list in")[0])
    assert sorted(named) == sorted(package.__name__ for package in PACKAGES)


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
