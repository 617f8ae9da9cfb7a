"""Every example and every notebook runs as a reader would run it, and shows what it claims."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.xla import ONE_PART, in_haste

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[1]
# One object for every path: pytest makes a fixture anew for another object, even for an equal one.
EXAMPLES = {path.name: path for path in sorted(ROOT.glob("examples/[!_]*.py"))}
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.py"))
# They compile longer than they compute, and show neither time nor memory.
QUICK = {
    "01_knobs.py", "02_neuron.py", "03_layers.py", "04_graph.py", "05_losses.py", "06_descent.py",
    "08_backpropagation.py", "10_dropout_and_batch_norm.py", "advanced_noise.py",
}  # fmt: skip


def run(folder, *words, **variables):
    """Run Python on some words in a folder, and return what it prints."""
    # The tests hold the accelerator too, if there is one: take no more of it than needed.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_PART}"} | variables
    environment.pop("MPLBACKEND", None)
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def printed(request, tmp_path_factory):
    """Run the example once, for all tests of it and the site: its folder and its print-out."""
    here = tmp_path_factory.mktemp(request.param.stem)
    folder = Path(run(here, ROOT / "docs/executed.py", request.param).strip())
    return folder, (folder / "printed.txt").read_text("utf-8")


def printing(*names):
    """Run a test on examples: all tests of one example in one process, which runs it once."""
    params = [
        pytest.param(EXAMPLES[name], id=name, marks=pytest.mark.together(name)) for name in names
    ]
    return pytest.mark.parametrize("printed", params, indirect=True)


@printing(*EXAMPLES)
def test_an_example_runs_without_warnings_and_says_something(printed):
    assert printed[1].strip()


@printing("neuron.py")
def test_one_neuron_separates_two_clouds_and_only_a_hidden_layer_does_xor(printed):
    errors = [float(percent) for percent in re.findall(r"([\d.]+)%", printed[1])]
    clouds, line, hidden = errors
    assert clouds < 2
    # The best line keeps one of the four clouds out: a quarter of the points stays wrong.
    assert line > 20
    assert hidden < 5


@printing("neuron.py")
def test_the_neuron_is_drawn_with_both_regions_in_every_panel(printed):
    pixels = imread(printed[0] / "fnn-run" / "neuron.png")[..., :3]
    height, width = pixels.shape[:2]
    assert height > 400
    assert width > 1000
    for panel in (pixels[:, i * width // 3 : (i + 1) * width // 3] for i in range(3)):
        red, blue = panel[..., 0], panel[..., 2]
        assert (blue > red + 0.05).mean() > 0.1
        assert (red > blue + 0.05).mean() > 0.1


def test_the_neuron_is_drawn_where_the_user_wants_it(tmp_path):
    run(tmp_path, ROOT / "examples/neuron.py", "--output", "pictures/first", **in_haste())
    assert [path.name for path in (tmp_path / "pictures/first").iterdir()] == ["neuron.png"]


@printing("own_layer.py")
def test_a_layer_of_ones_own_is_right_learns_and_a_mistake_in_it_is_found(printed):
    right, learning, mistake = re.split(r"\nA network|\nThe checker", printed[1])
    assert "yes" in right
    assert "NO" not in right
    before, after = map(float, re.search(r"error ([\d.]+) -> ([\d.]+)", learning).groups())
    assert after < before / 20
    wrong = [line.split()[0] for line in mistake.splitlines() if "NO" in line]
    assert wrong == ["dx", "dx"], "the planted mistake is in dx alone"


@printing("gpt.py", "char_lstm.py")
def test_a_text_is_learnt_along_the_same_curve_by_both_gradients(printed):
    losses = re.findall(r"loss ([\d.]+) in the first epoch, ([\d.]+) in the last", printed[1])
    (first, last), (same_first, same_last) = [map(float, pair) for pair in losses]
    assert last < first - 1
    # To the rounding of a hundred steps; over a thousand it grows, and stays within a percent.
    apart = re.search(r"the two loss curves differ by (\S+) at most in the first 100", printed[1])
    assert float(apart[1]) < 1e-4
    assert abs(first / same_first - 1) < 0.01
    assert abs(last / same_last - 1) < 0.01
    assert len(printed[1].partition("|")[2]) >= 300


@printing("escape_saddle.py")
def test_saddles_hold_plain_descent_as_long_as_predicted_and_perturbed_descent_briefly(printed):
    assert imread(printed[0] / "fnn-run" / "escape_saddle.png").shape[0] > 400
    factors = re.findall(r"predicted ([\d.]+) +measured ([\d.]+)", printed[1])
    assert len(factors) == 4
    for predicted, measured in factors:
        assert abs(float(measured) / float(predicted) - 1) < 0.01
    rows = re.findall(r"^ +\d+ +[\d.]+ +([>\d ]+?)  +([\d ]+)$", printed[1], re.MULTILINE)
    assert len(rows) == 4
    for plain, perturbed in rows:
        fastest = min(int(count.lstrip(">")) for count in plain.split())
        assert max(map(int, perturbed.split())) < fastest / 2


@printing("langevin.py")
def test_langevin_dynamics_samples_the_exact_density(printed):
    assert imread(printed[0] / "fnn-run" / "langevin.png").shape[0] > 400
    moments = re.findall(r"(mean|deviation) ([+\d.-]+), exact ([+\d.-]+)", printed[1])
    deviations = [(float(a), float(b)) for what, a, b in moments if what == "deviation"]
    assert len(deviations) == 4
    # The noise of batches widens it by a few percent.
    assert all(0.97 < sampled / exact < 1.1 for sampled, exact in deviations)
    means = [(float(a), float(b)) for what, a, b in moments if what == "mean"]
    for (sampled, exact), (deviation, _) in zip(means, deviations, strict=True):
        assert abs(sampled - exact) < 0.15 * deviation
    assert all(float(share) > 90 for share in re.findall(r"density ([\d.]+)%", printed[1]))


@printing("noise_zoo.py")
def test_noise_in_the_gradient_gets_a_deep_plain_network_off_its_plateau_sooner(printed):
    assert imread(printed[0] / "fnn-run" / "noise_zoo.png").shape[0] > 400
    right = {
        name.strip(): float(share)
        for name, share in re.findall(r"^(.+?)  +[\d.]+ +([\d.]+)%$", printed[1], re.MULTILINE)
    }
    assert len(right) == 8
    assert right["gradient, annealed"] > right["none"] + 15


# Of each model beyond chains what it prints of its success, and what that has to be.
BEYOND_CHAINS = {
    "vae.py": (r"manual loss ([\d.]+) -> ([\d.]+)", lambda first, last: last < first / 2),
    "translate.py": (r"([\d.]+)% of (\d+) dates", lambda share, of: share > 85 and of > 400),
    "gan.py": (r"([\d.]+)% of the points .* in (\d) of 8", lambda share, of: share > 80 and of > 5),
    "siamese.py": (r"same digit for ([\d.]+)%", lambda share: share > 65),
    "unet.py": (r"strokes (\d+)%; by a threshold (\d+)%", lambda found, other: found > other + 8),
    "physics.py": (r"off by ([\d.]+) at most, of ([\d.]+)", lambda error, of: error < of / 50),
    "policy_gradient.py": (
        r"for (\d+) steps at first, (\d+) of 200",
        lambda a, b: a < 50 < 150 < b,
    ),
    "neural_ode.py": (r"those learned are off by ([\d.]+)", lambda error: error < 0.3),
}


@printing(*BEYOND_CHAINS)
def test_a_model_beyond_chains_learns_along_one_curve_by_both_gradients(printed):
    folder, text = printed
    apart = re.search(r"the two loss curves differ by (\S+) at most in the first", text)
    assert float(apart[1]) < 0.01
    (name,) = {path.stem for path in (folder / "fnn-run").glob("*.png")}
    pattern, success = BEYOND_CHAINS[f"{name}.py"]
    assert success(*map(float, re.search(pattern, text).groups()))
    pixels = imread(folder / "fnn-run" / f"{name}.png")[..., :3]
    assert pixels.shape[:2] == (504, 1080)
    for half in (pixels[:, :540], pixels[:, 540:]):
        assert (half.min(-1) < 0.5).mean() > 0.01


@printing("fine_tune.py")
def test_fine_tuning_by_adapters_is_as_good_as_of_all_for_a_twentieth_of_the_parameters(printed):
    folder, text = printed
    row = r"^(\D+?) +([\d,]+) +(\d+|never) +(moved|as before) +([\d.]+)%$"
    rows = {name: cells for name, *cells in re.findall(row, text, re.MULTILINE)}
    assert len(rows) == 5
    trained = {name: int(cells[0].replace(",", "")) for name, cells in rows.items()}
    right = {name: float(cells[-1]) for name, cells in rows.items()}
    assert trained["head alone"] < trained["LoRA and head"] < trained["all, norms frozen"] / 20
    assert right["LoRA and head"] > max(right["all, norms frozen"] - 4, right["head alone"] + 5)
    assert min(right.values()) > 60
    frozen = {name for name, cells in rows.items() if cells[2] == "as before"}
    assert frozen == {"head alone", "LoRA and head", "all, norms frozen"}
    assert float(re.search(r"the curves differ by (\S+) at most", text)[1]) < 1e-3
    assert imread(folder / "fnn-run/fine_tune.png").shape[:2] == (504, 1080)


# What the text of a lesson says to expect: where it is printed, and between which numbers.
CLAIMS = {
    "01_knobs.py": [
        (r"loss ([\d.]+) -> [\d.]+ after one step", 1.61, 1.63),
        (r"-> ([\d.]+) after one step", 1.23, 1.25),
        (r"([\d.]+)% of 1,000 new digits", 85, 100),
        (r"gradients differ by ([\d.e-]+)", 0, 1e-6),
    ],
    "02_neuron.py": [
        (r"lines has (\d+)% wrong", 25, 25),
        (r"loss ([\d.]+); log 2", 0.693, 0.694),
        (r"loss [\d.]+ -> ([\d.]+)", 0, 0.05),
    ],
    "03_layers.py": [
        (r"should say \[[01 ]+\]; (\d) wrong", 0, 0),
        (r"1 hidden: +([\d.]+)% wrong", 26, 30),
        (r"2 hidden: +([\d.]+)% wrong", 8, 13),
        (r"3 hidden: +([\d.]+)% wrong", 0, 1),
        (r"no activation +([\d.]+) turns", 0, 0),
        (r"1 hidden layer, tanh +([\d.]+) turns", 1.5, 2.5),
        (r"3 hidden layers, tanh +([\d.]+) turns", 3.5, 4.5),
        (r"numpy and fnn differ by ([\d.e-]+)", 0, 1e-5),
        (r"no last activation: mean squared error ([\d.]+)", 0, 0.003),
        (r"sigmoid at the end: mean squared error ([\d.]+)", 0.2488, 0.28),
        (r"numbers from 0 to 1 can do: ([\d.]+)", 0.248, 0.25),
        (r"height: mean squared error ([\d.]+)", 0, 0.02),
        (r"slope: (\d+)% right", 95, 100),
        (r"differs by ([\d.e-]+)", 0, 2e-5),
    ],
    "04_graph.py": [(r"best of two sides at s = ([\d.e-]+)", 1e-7, 1e-4)],
    "05_losses.py": [
        (r"squared +line ([\d.]+) x", 2.6, 2.72),
        (r"absolute +line ([\d.]+) x", 1.46, 1.56),
        (r"huber +line ([\d.]+) x", 1.59, 1.69),
        (r"squared +best constant +([\d.]+)", 22, 22),
        (r"absolute +best constant +([\d.]+)", 3, 3),
        (r"with twice the rate: differ by ([\d.e+-]+)", 0, 1e-6),
        (r"of the score itself: ([\d.]+)", 0, 0.05),
        (r"of a sigmoid of the score: ([\d.]+)", 0.503, 0.52),
        (r"binary cross-entropy differ by ([\d.e+-]+)", 0, 1e-6),
        (r"0/1 +largest slope ([\d.]+)", 0, 0),
        (r"parameters moved by ([\d.e+-]+)", 0, 0),
        (r"sum of their -log p: ([\d.]+)", 1386, 1387),
        (r"z = -8.0: -([\d.]+) for -log p", 0.999, 1),
        (r"z = -8.0: -([\d.]+) for \(1 - p\)", 0.0006, 0.0007),
        (r"by hand and by \w+ differ by ([\d.e+-]+)", 0, 1e-6),
    ],
    "06_descent.py": [
        (r"diverged at step (\d+)", 106, 108),
        (r"predicted: step (\d+)", 107, 107),
        (r"the limit is ([\d.]+)", 0.770, 0.772),
        (r"at 0.98 of it: loss 1.622 -> ([\d.e+]+)", 0, 0.053),
        (r"at 1.02 of it: loss 1.622 -> ([\d.e+]+)", 1e5, 1e8),
        (r"ends at .*, height ([\d.e+-]+)", 0, 1e-9),
        # 200 runs: five standard errors to each side.
        (r"T = 0.6 +([\d.]+)% of 200", 55, 86),
        (r"T = 0.1 +([\d.]+)% of 200", 0, 4),
        (r"mathematics +descent ([\d.]+)", 0.482, 0.484),
        (r"music +descent ([\d.]+)", 0, 0),
        (r"price +([\d.]+)", 71.5, 71.7),
        (r"price +[\d.]+ +([\d.]+)", 74.1, 74.2),
        (r"energy +([\d.]+)%", 3.05, 3.25),
    ],
    "07_batches.py": [
        (r"apart by ([\d.e+-]+)", 0, 1e-6),
        (r"slope (-[\d.]+);", -0.52, -0.48),
        (r"start +one example is off by +([\d.]+) gradients", 8, 10),
        (r"batches of 1 +spread of the second half ([\d.]+)", 0.2, 0.6),
        (r"batches of 16 +spread of the second half ([\d.]+)", 0.05, 0.19),
        (r"B = (?:4|16|64) .* ratio ([\d.]+)", 0.9, 1.1),
        (r"α = 0.1 +B = 1 .* ratio ([\d.]+)", 1.1, 1.6),
        (r"one by one +after 5 epochs: loss [\d.]+, ([\d.]+)% right", 90, 95),
        (r"batches of 32 +after 5 epochs: loss [\d.]+, ([\d.]+)% right", 90, 95),
        (r"all at once +after 5 epochs: loss [\d.]+, ([\d.]+)% right", 45, 75),
    ],
    "09_difficulties.py": [
        (r"width  2: .* spread ([\d.]+)", 0.1, 0.55),
        (r"width  4: .* spread ([\d.]+)", 0.03, 0.3),
        (r"width (?: 8|16|64): .* spread ([\d.]+)", 0, 0.0001),
        (r"batches of 20: loss ([\d.]+)", 0.68, 0.72),
        (r"noise   0e\+00: loss ([\d.]+)", 0.693, 0.694),
        (r"noise   1e-0\d: loss ([\d.]+)", 0, 0.01),
        (r"eigenvalue by hand -([\d.]+)", 0.97, 0.98),
        (r"by autodiff -([\d.]+)", 0.97, 0.98),
        (r"eigenvalues with 4 neurons: [+-]([\d.]+)", 0, 0.005),
        (r"bad ends: +smallest eigenvalues with 5 neurons: -([\d.]+) to", 0.05, 0.1),
        (r"bad ends: +smallest eigenvalues with 5 neurons: .* to -([\d.]+)", 0.05, 0.1),
        (r"the others: +smallest eigenvalues with 5 neurons: [+-]([\d.]+)", 0, 0.005),
        (r"4 neurons nudged: (\d+) of", 0, 0),
        (r"5 neurons nudged: (\d+) of", 5, 20),
        (r"sigmoid +a layer: measured ([\d.]+)", 0.2, 0.25),
        (r"ReLU +a layer: measured ([\d.]+)", 0.65, 0.75),
        (r"(?:tanh|2 / n) +a layer: measured ([\d.]+)", 0.85, 1.1),
        (r"sigmoid +loss ([\d.]+)", 2.29, 2.33),
        (r"(?:tanh|2 / n) +loss [\d.]+, ([\d.]+)% of", 70, 100),
        (r"α = 0.3 +dead +\d+% and +(\d+)%", 0, 20),
        (r"α = (?:3|10).0 +dead +\d+% and +(\d+)%", 90, 100),
        (r"([\d.]+)% of new digits: right", 60, 100),
    ],
    "10_dropout_and_batch_norm.py": [
        (r"autodiff differ by ([\d.e+-]+)", 0, 5e-6),
        (r"by hand and fnn by ([\d.e+-]+)", 0, 5e-6),
        (r"from that of the whole by ([\d.e-]+)", 0, 1e-6),
        (r"no dropout +training loss ([\d.]+)", 0.004, 0.02),
        (r"dropout of 0.5 +training loss ([\d.]+)", 0.03, 0.12),
        (r"no dropout .* digits: loss ([\d.]+)", 0.49, 0.57),
        (r"dropout of 0.5 .* digits: loss ([\d.]+)", 0.42, 0.485),
        (r"camera \d: .* y = [+-]([\d.]+)", 0, 0.01),
        (r"camera \d: .* y = .* ± ([\d.]+)", 0.98, 1.02),
        (r"plain +above 80 % at (\d+) of 11", 1, 3),
        (r"batch norm above 80 % at (\d+) of 11", 5, 8),
        (r"batch of +1: n = [+-]([\d.]+)", 0, 0),
        (r"batch of +2: n = .* ± ([\d.]+)", 0.9, 1),
        (r"batch of +64: n = .* ± ([\d.]+)", 0.08, 0.18),
        (r"largest y: ([\d.]+) and 0.0", 0, 0),
    ],
    "08_backpropagation.py": [
        (r"-> ([\d.]+), [\d.]+% of", 0.37, 0.41),
        (r"([\d.]+)% of 1,000 new digits", 88, 100),
        (r"differs by ([\d.e-]+)", 0, 2.7e-5),
        (r"last layer over first: ([\d.e+]+)", 1e4, 1e6),
    ],
    "advanced_noise.py": [
        (r"1e-06 leaves after (\d+) steps", 137, 142),
        (r"ends at height (-[\d.]+)", -0.2501, -0.2),
        (r"takes ([\d.]+) times as long", 2.69, 2.74),
        (r"pushed +leaves .*, (\d+)\]", 60, 200),
        # Five standard errors to each side.
        (r"20,000 points ([\d.]+)", 0.186, 0.206),
        (r"([\d.]+)% sampled", 70, 78),
        (r"([\d.]+)% by the formula", 73.5, 74.0),
    ],
    "11_convolution.py": [
        (r"32 kernels +(\d+) parameters", 320, 320),
        (r"dense, 32 neurons +25,(\d+) parameters", 120, 120),
        (r"moved map: they differ by ([\d.e+-]+)", 0, 1e-12),
        (r"jax.grad differ by ([\d.e+-]+)", 0, 1e-5),
        (r"hand and fnn by ([\d.e+-]+)", 0, 1e-5),
        (r"\ndense +shifted by 0 right ([\d.]+)%", 86, 95),
        (r"\ndense .* 4 right ([\d.]+)%", 10, 35),
        (r"\nflattened +shifted by 0 right ([\d.]+)%", 94, 100),
        (r"\nflattened .* 4 right ([\d.]+)%", 30, 65),
        (r"\nlargest +shifted by 0 right ([\d.]+)%", 88, 100),
        (r"\nlargest .* 4 right ([\d.]+)%", 80, 100),
    ],
    "12_recurrence.py": [
        (r"du +graph ([\d.+-]+)", -4.5, -4.5),
        (r"jax.grad differ by ([\d.e+-]+)", 0, 1e-5),
        (r"hand and fnn by ([\d.e+-]+)", 0, 1e-5),
        (r"\nrnn +first step over last: ([\d.e+-]+)", 1e-13, 1e-9),
        (r"\nlstm +first step over last: ([\d.e+-]+)", 1e-7, 1e-3),
        (r"bias 3 +first step over last: ([\d.e+-]+)", 0.05, 10),
        (r"doubled +first step over last: ([\d.e+-]+)", 1e5, 1e10),
        (r"\nrnn +(\d+)% over 5", 95, 100),
        (r"\nrnn .* (\d+)% over 100", 42, 60),
        (r"\nlstm +\d+% over 5, (\d+)% over 20", 80, 100),
        (r"\nlstm +\d.* (\d+)% over 100", 42, 60),
        (r"bias 3 .* (\d+)% over 100", 80, 100),
        (r"\nplain: .* diverged at step (\d+)", 1, 1),
        (r"\nclipped: .* ends at u = ([\d.]+)", 0.89, 0.91),
    ],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_from_top_to_bottom_and_shows_its_pictures(path, tmp_path):
    # It is executed once for its text and the code of fnn: the site shows the same outputs.
    variables = in_haste() if path.name in QUICK else {}
    folder = Path(run(tmp_path, ROOT / "docs/executed.py", path, **variables).strip())
    cells = json.loads((folder / "lesson.ipynb").read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    # A warning of the lesson's own code goes to stderr.
    assert not [output for output in outputs if output.get("name") == "stderr"]
    sources = ["".join(cell["source"]) for cell in code]
    # One for each cell that ends so: of a picture with knobs, the one that it starts with.
    pictures = sum(bool(re.search(r"(?:plt|plot)\.show\(|display\(", one)) for one in sources)
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == pictures
    assert all(len(output["data"]["image/png"]) > 10_000 for output in shown)
    # What is read to those who cannot see them, by titles and names of axes.
    assert all(output["metadata"]["image/png"]["alt"] for output in shown)
    for cell in code:
        judge(cell)
    said = "\n".join(line for output in outputs for line in printed_lines(output))
    for pattern, least, most in CLAIMS.get(path.name, ()):
        found = [float(number) for number in re.findall(pattern, said)]
        assert found, pattern
        assert all(least <= number <= most for number in found), (pattern, found)


def judge(cell):
    """Exercises are not right before they are answered; their solutions are."""
    tags = set(cell["metadata"].get("tags", ()))
    lines = [line for output in cell["outputs"] for line in printed_lines(output)]
    right = [line for line in lines if line.split()[-1:] == ["right"]]
    if "exercise" in tags:
        assert any("not answered" in line for line in lines)
        assert not right
    if "solution" in tags:
        assert right
        assert not [line for line in lines if "wrong" in line or "not answered" in line]
        assert cell["metadata"]["jupyter"] == {"source_hidden": True}


def printed_lines(output):
    return "".join(output.get("text", ())).splitlines()


def exercise_of(printed, tag):
    metadata = {"tags": [tag], "jupyter": {"source_hidden": True}}
    return {"metadata": metadata, "outputs": [{"text": [printed]}]}


@pytest.mark.parametrize(
    ("printed", "tag"),
    [("a  right\nb  not answered", "exercise"), ("a  1  wrong", "exercise"), ("", "solution"),
     ("a  right\nb  wrong: the sign", "solution"), ("a  right\nb  not answered", "solution")],
)  # fmt: skip
def test_an_exercise_that_answers_itself_and_a_wrong_solution_are_seen(printed, tag):
    with pytest.raises(AssertionError):
        judge(exercise_of(printed, tag))


LESSONS = [path for path in NOTEBOOKS if "# # Lesson" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_a_lesson_has_questions_an_exercise_its_solution_and_chinese_terms(path):
    text = path.read_text("utf-8")
    predictions = text.count("**Predict first.**")
    assert predictions >= 2
    assert text.count("<summary>Answer to the prediction") == predictions
    assert text.count('tags=["exercise"]') == text.count('tags=["solution"]') > 0
    assert len(re.findall(r"\([\u4e00-\u9fff]+", text)) >= 5
    assert "jax.grad" in text or "value_and_grad" in text
    # What a student changes must not end the lesson.
    assert not re.search(r"^\s*assert ", text, re.MULTILINE)


def spoken(source):
    """Which parts of a source read docstrings or sources, as no code of fnn may: see `executed`."""
    return re.findall(r"__doc__|getdoc|getsource|linecache", source)


SAME = "def f(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (SAME.replace("2 *", "2  *  ") + "# The same.\n", True),
        ('"""Of a module."""\n' + SAME.replace(":\n", ':\n    """Twice x."""\n\n'), True),
        (SAME.replace("2", "3"), False),
        (SAME.replace("2 * x", '"2 x"'), False),
        (SAME.replace(":\n", ":\n    print('no docstring')\n"), False),
    ],
)  # fmt: skip
def test_words_about_the_code_execute_no_lesson_again_and_code_does(source, same, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    executed = importlib.import_module("executed")
    assert (executed.code(source.encode()) == executed.code(SAME.encode())) is same


def test_no_code_of_fnn_reads_words_about_it():
    files = sorted((ROOT / "fnn").rglob("*.py"))
    assert [file.name for file in files if spoken(file.read_text("utf-8"))] == []
    assert spoken("print(fnn.dense.__doc__)")
