"""ONNX Runtime computes what fnn does, of a file written whole; or the error says why not."""

from __future__ import annotations

import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.interop import onnx
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.export import onnx as table
from tests.tolerance import rounding

KEY = jax.random.key(3)
# A layer of every kind of program: of matrices, windows, loops both ways, trees, integers.
SHOWN = (
    "dense", "softmax-first-axis", "batch_norm-untracked", "conv-stride-groups", "conv_transpose",
    "max_pool-overlapping", "average_pool-ceil", "rnn-stacked-bidirectional-carry-lengths",
    "embedding", "attention-blocks-dropout", "identity",
)  # fmt: skip
X = jnp.ones((3, 2))
DENSE = fnn.dense(2)
PLACE = DENSE.init(KEY, X)


@pytest.mark.once
@pytest.mark.parametrize("name", SHOWN)
def test_onnx_runtime_computes_the_same_at_any_batch_size(name):
    assert table.cell(table.jobs()[name](), True) == "ok"


@pytest.mark.once
def test_what_cannot_be_written_is_refused_by_operation_and_layer(tmp_path):
    file, x = tmp_path / "model.onnx", jnp.ones((2, 3, 3, 3, 1))
    model = fnn.serial(head=fnn.identity(), body=fnn.residual(fnn.conv(1, 2)))
    place = model.init(KEY, x)
    got = r"conv_general_dilated of conv \(.+: .+\)"
    bad = Bad("conv", fnn.export_onnx, "export_onnx", "operations .+", got, "body")
    assert_complains(bad, lambda: fnn.export_onnx(file, model, *place, x))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
def test_what_can_be_written_for_one_batch_size_alone_is_told(tmp_path):
    file, model = tmp_path / "model.onnx", fnn.from_function(lambda x: jax.lax.rem(x, 2 * x + 1))
    with pytest.raises(fnn.InputError, match=r"got rem of from_function .+ pass any_batch=False"):
        fnn.export_onnx(file, model, (), (), X)
    fnn.export_onnx(file, model, (), (), X, any_batch=False)
    np.testing.assert_array_equal(table.of_runtime(file, X)[0], np.ones((3, 2), "float32"))


def test_what_does_not_fit_into_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_MOST", 24)
    with pytest.raises(fnn.InputError, match=r"a model below 2 GiB, got parameters of 24 bytes"):
        fnn.export_onnx(tmp_path / "model.onnx", DENSE, *PLACE, X)


def test_without_jax2onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'fnn\[onnx\]'"):
        fnn.export_onnx(tmp_path / "model.onnx", DENSE, *PLACE, X)


@pytest.mark.once
def test_the_table_sees_other_numbers():
    assert table.cell(table.planted(), True).startswith("differs")


@pytest.mark.parametrize("factor", [1, 1 + 1e-4])
def test_a_file_of_other_numbers_is_not_written(factor):
    y = np.float32([[1, -2, np.nan, np.inf]])
    given = np.float32(factor) * y
    if factor == 1:
        onnx._compare([given], [y], 4)
    else:
        with pytest.raises(fnn.InputError, match=r"apart; export it as StableHLO"):
            onnx._compare([given], [y], 4)


@pytest.mark.once
def test_a_gradient_of_another_way_and_what_is_for_one_platform_change_no_y():
    def doubled(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x + x, default=lambda x: 2 * x)

    x = np.random.default_rng(0).normal(size=(table.BATCH, 3)).astype("float32")
    layer = fnn.from_function(doubled)
    model = fnn.serial(fnn.use_auto(fnn.dense(3)), fnn.use_manual(layer), fnn.residual(layer))
    params, state = model.init(KEY, x)
    assert table.cell(table.Job(model, params, state, x, model), True) == "ok"


@pytest.mark.once
def test_of_one_batch_size_no_other_is_taken(tmp_path):
    file = tmp_path / "model.onnx"
    fnn.export_onnx(file, DENSE, *PLACE, X, any_batch=False)
    assert table.of_runtime(file, np.asarray(X))[0].shape == (3, 2)
    with pytest.raises(Exception, match="Got: 4 Expected: 3"):
        table.of_runtime(file, np.ones((4, 2), "float32"))


def functions_of_jax():
    modules = jax, jnp, jnp.linalg, jnp.fft, jax.lax, jax.nn, jax.random, jax.scipy.special
    return {(m.__name__, name): one for m in modules for name, one in vars(m).items()}


@pytest.mark.once
def test_jax_and_the_loggers_are_as_before(tmp_path):
    handlers, before = logging.getLogger().handlers[:], functions_of_jax()
    for _ in range(2):
        fnn.export_onnx(tmp_path / "model.onnx", DENSE, *PLACE, X)
        assert {
            name for name, one in functions_of_jax().items() if before[name] is not one
        } == set()
    np.testing.assert_array_equal(jnp.cumsum(jnp.ones(3), 0), [1, 2, 3])
    assert logging.getLogger().handlers == handlers
    assert not jax.config.jax_enable_x64


@pytest.mark.once
def test_float64_stays_float64(tmp_path):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
        model = fnn.serial(fnn.dense(2), fnn.tanh())
        place = model.init(KEY, x)
        fnn.export_onnx(tmp_path / "model.onnx", model, *place, x)
        (y,) = table.of_runtime(tmp_path / "model.onnx", x)
        assert y.dtype == np.float64
        assert np.abs(y - model.apply(*place, x)[0]).max() <= rounding(jnp.float64, 6)


def of_one_size(x):
    """Return what cannot be computed of a batch of unknown size: a row for every example."""
    return x * jnp.arange(x.shape[0] if x.shape[0] == 3 else 2, dtype=x.dtype)[:, None]


BAD = [
    Bad(
        "layer",
        lambda file: fnn.export_onnx(file, jnp.tanh, (), (), X),
        "export_onnx",
        "a layer",
        ".+",
    ),
    Bad(
        "params",
        lambda file: fnn.export_onnx(file, DENSE, (), (), X),
        "export_onnx",
        "params .+",
        ".+",
    ),
    Bad(
        "x",
        lambda file: fnn.export_onnx(file, DENSE, *PLACE, "x"),
        "export_onnx",
        "x of arrays",
        "'x'",
    ),
    Bad(
        "shapes",
        lambda file: fnn.export_onnx(file, DENSE, *PLACE, jax.ShapeDtypeStruct((3, 2), "float32")),
        "export_onnx",
        "x of arrays",
        "shapes alone",
    ),
    Bad(
        "any_batch",
        lambda file: fnn.export_onnx(file, DENSE, *PLACE, X, any_batch=1),
        "export_onnx",
        "any_batch of True or False",
        "1",
    ),
    Bad(
        "folder",
        lambda file: fnn.export_onnx(file.parent, DENSE, *PLACE, X),
        "export_onnx",
        "a file .+",
        ".+",
    ),
    Bad(
        "file",
        lambda file: fnn.export_onnx(3, DENSE, *PLACE, X),
        "export_onnx",
        "file to be a path",
        "3",
    ),
    Bad(
        "batch",
        lambda file: fnn.export_onnx(file, fnn.from_function(of_one_size), (), (), X),
        "export_onnx",
        "a program for any batch size",
        ".+",
    ),
]


@parametrize(BAD)
def test_bad_input_is_refused_and_the_file_is_as_it_was(bad, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"before")
    assert_complains(bad, bad.call, file)
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]
