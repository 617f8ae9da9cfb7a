"""Options and keys of layers, judged by their values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn

KEY = jax.random.key(0)
X = jnp.ones((2, 4))

FLAGS = {
    "dense": lambda flag: fnn.dense(3, bias=flag),
    "linear_head": lambda flag: fnn.linear_head(3, bias=flag),
    "layer_norm-scale": lambda flag: fnn.layer_norm(scale=flag),
    "layer_norm-shift": lambda flag: fnn.layer_norm(shift=flag),
    "rms_norm": lambda flag: fnn.rms_norm(scale=flag),
    "group_norm": lambda flag: fnn.group_norm(2, scale=flag),
    "instance_norm": lambda flag: fnn.instance_norm(shift=flag),
    "batch_norm": lambda flag: fnn.batch_norm(shift=flag),
    "gelu": fnn.gelu,
    "geglu": lambda flag: fnn.geglu(2, approximate=flag),
    "batch_norm-train": lambda flag: fnn.batch_norm().apply(
        *fnn.batch_norm().init(KEY, X), X, train=flag
    ),
    "dropout-train": lambda flag: fnn.dropout(0.5).apply((), (), X, key=KEY, train=flag),
    "gaussian_noise-train": lambda flag: fnn.gaussian_noise(1.0).apply(
        (), (), X, key=KEY, train=flag
    ),
}


@pytest.mark.parametrize("flag", ["False", "no", 0, 1, None, jnp.array([True, False])])
@pytest.mark.parametrize("call", FLAGS.values(), ids=FLAGS)
def test_a_flag_is_true_or_false_and_nothing_that_counts_as_one(call, flag):
    with pytest.raises(fnn.InputError, match="of True or False"):
        call(flag)


@pytest.mark.parametrize("call", FLAGS.values(), ids=FLAGS)
def test_a_flag_of_numpy_is_a_flag(call):
    call(np.bool_(True))


NUMBERS = {
    "layer_norm": lambda number: fnn.layer_norm(epsilon=number),
    "rms_norm": lambda number: fnn.rms_norm(epsilon=number),
    "group_norm": lambda number: fnn.group_norm(2, epsilon=number),
    "instance_norm": lambda number: fnn.instance_norm(epsilon=number),
    "batch_norm-epsilon": lambda number: fnn.batch_norm(epsilon=number),
    "batch_norm-momentum": lambda number: fnn.batch_norm(momentum=number),
    "leaky_relu": fnn.leaky_relu,
    "elu": fnn.elu,
    "hard_tanh-low": lambda number: fnn.hard_tanh(number, 1e30),
    "hard_tanh-high": lambda number: fnn.hard_tanh(-1e30, number),
    "dropout": fnn.dropout,
    "spatial_dropout": fnn.spatial_dropout,
    "gaussian_noise": fnn.gaussian_noise,
}
WRONG = {
    "inf": np.inf,
    "nan": np.nan,
    "nan-of-jax": jnp.float32(np.nan),
    "complex": 0.5 + 0j,
    "text": "0.5",
    "bool": True,
    "array": np.array([0.5, 0.5]),
    "schedule": lambda step: 0.5,
}


@pytest.mark.parametrize("number", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS)
def test_a_number_is_one_finite_real_number(call, number):
    with pytest.raises(fnn.InputError):
        call(number)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5)])
@pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_numpy_or_jax_is_a_number(call, number):
    call(number)


KEYS = {
    "batched": lambda: jax.random.split(KEY),
    "int": lambda: 3,
    "words": lambda: jnp.zeros(3, "uint32"),
    "text": lambda: "key",
}
DRAWS = {
    "dense": lambda key: fnn.dense(2).init(key, X),
    "linear_head": lambda key: fnn.linear_head(2).init(key, X),
    "swiglu": lambda key: fnn.swiglu(2).init(key, X),
    "embedding": lambda key: fnn.embedding(3, 2).init(key, jnp.array([1])),
    "dropout": lambda key: fnn.dropout(0.5).apply((), (), X, key=key, train=True),
    "spatial_dropout": lambda key: fnn.spatial_dropout(0.5).apply((), (), X, key=key, train=True),
    "gaussian_noise": lambda key: fnn.gaussian_noise(1.0).apply((), (), X, key=key, train=True),
    "serial-init": lambda key: fnn.serial(fnn.relu()).init(key, X),
    "serial": lambda key: fnn.serial(fnn.relu()).apply(((),), ((),), X, key=key),
    "parallel-init": lambda key: fnn.parallel(fnn.relu()).init(key, X),
    "parallel": lambda key: fnn.parallel(fnn.relu()).apply(((),), ((),), X, key=key),
    "repeat-init": lambda key: fnn.repeat(fnn.relu(), 2).init(key, X),
    "repeat": lambda key: fnn.repeat(fnn.relu(), 2).apply((), (), X, key=key),
    "reversible-init": lambda key: fnn.reversible(fnn.relu(), fnn.relu()).init(key, X),
    "reversible": lambda key: fnn.reversible(fnn.relu(), fnn.relu()).apply(
        {"f": (), "g": ()}, {"f": (), "g": ()}, X, key=key
    ),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("call", DRAWS.values(), ids=DRAWS)
def test_a_key_is_one_key_of_jax(call, key):
    with pytest.raises(fnn.InputError, match="key"):
        call(key())


@pytest.mark.parametrize("call", DRAWS.values(), ids=DRAWS)
def test_a_key_of_the_old_style_is_a_key(call):
    call(jax.random.PRNGKey(3))


INITIALIZED = {
    "dense": fnn.dense,
    "linear_head": fnn.linear_head,
    "swiglu": fnn.swiglu,
    "geglu": fnn.geglu,
    "embedding": lambda width, **options: fnn.embedding(3, width, **options),
}


@pytest.mark.parametrize("make", INITIALIZED.values(), ids=INITIALIZED)
def test_an_initializer_is_a_function(make):
    with pytest.raises(fnn.InputError, match="initializer to be a function"):
        make(2, initializer="normal")


NUMBERS = {
    "dropout": lambda number: fnn.dropout(number),
    "spatial_dropout": lambda number: fnn.spatial_dropout(number),
    "transformer_block": lambda number: fnn.transformer_block(2, dropout=number),
    "leaky_relu": lambda number: fnn.leaky_relu(number),
    "sgd": lambda number: fnn.optim.sgd(number, momentum=number),
    "huber": lambda number: fnn.losses.huber(number),
}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("make", NUMBERS.values(), ids=NUMBERS)
def test_a_number_of_numpy_is_the_number_of_python_that_it_is(make, kind):
    number = np.asarray(0.3, kind)[()]
    assert make(number) == make(float(number))
    assert repr(make(number)) == repr(make(float(number)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [fnn.dropout, fnn.spatial_dropout])
def test_a_rate_in_half_precision_drops_what_it_drops_in_full(make, kind):
    x, rate = jnp.ones((64, 3, 8)), jnp.asarray(2.0**-10, kind)
    half, full = (make(r).apply((), (), x, key=KEY, train=True)[0] for r in (rate, 2.0**-10))
    assert (half == full).all()


@pytest.mark.parametrize("make", [fnn.softmax, fnn.log_softmax, fnn.concatenate])
@pytest.mark.parametrize("axis", [KEY, "last", "1", 1.0, None, True])
def test_an_axis_that_is_no_integer_is_refused_when_it_is_named(make, axis):
    with pytest.raises(fnn.InputError, match="axis to be an int"):
        make(axis)


FUNCTIONS = {
    "init": lambda key, x: ((), ()),
    "forward": lambda params, state, x, *, key=None, train=False: (x, state, ()),
    "backward": lambda params, residuals, dy: ((), dy),
}
PAIR = {
    "init": FUNCTIONS["init"],
    "apply": lambda p, state, x, *, key=None, train=False: (x, state),
}


@pytest.mark.parametrize("name", ["init", "forward", "backward"])
@pytest.mark.parametrize("value", [np.ones((2, 2)), jnp.ones(1), "tanh"])
def test_a_layer_is_made_of_functions(name, value):
    with pytest.raises(fnn.InputError, match=rf"fnn\.stateful: expected {name} to be a function"):
        fnn.stateful(**FUNCTIONS | {name: value})


@pytest.mark.parametrize("name", PAIR)
def test_a_layer_of_autodiff_is_made_of_functions(name):
    with pytest.raises(fnn.InputError, match=rf"fnn\.autodiff: expected {name} to be a function"):
        fnn.autodiff(**PAIR | {name: "tanh"})


@pytest.mark.parametrize("params", [{"a": X, "b": X}, X, ()], ids=["dict", "array", "none"])
@pytest.mark.parametrize("make", [fnn.stateful, fnn.autodiff])
def test_an_init_that_forgets_the_state_is_named(make, params):
    functions = FUNCTIONS if make is fnn.stateful else PAIR
    layer = fnn.serial(make(**functions | {"init": lambda key, x: params}))
    with pytest.raises(fnn.InputError, match=r"(?s)\(params, state\) of init.*at layer '0'"):
        layer.init(KEY, X)


def test_an_apply_that_forgets_the_state_is_named():
    # Without the check the two rows of X would pass for y and a state.
    layer = fnn.autodiff(PAIR["init"], lambda params, state, x, *, key=None, train=False: x)
    with pytest.raises(fnn.InputError, match=r"fnn\.autodiff: expected \(y, state\) of apply"):
        layer.apply((), (), X)


HUGE = {
    "padding": lambda n: fnn.conv(2, 3, padding=n),
    "paddings": lambda n: fnn.conv(2, (3, 3), padding=((0, n), (0, 0))),
    "pool": lambda n: fnn.max_pool(2, padding=n),
    "output_padding": lambda n: fnn.conv_transpose(2, 3, output_padding=n),
    "reshape": lambda n: fnn.reshape((n, 1)),
    "width": fnn.dense,
}


@pytest.mark.parametrize("make", HUGE.values(), ids=HUGE)
def test_an_integer_that_no_array_has_room_for_is_refused(make):
    with pytest.raises(fnn.InputError):
        make(10**400)


@pytest.mark.parametrize("make", NUMBERS.values(), ids=NUMBERS)
def test_a_masked_number_is_none(make):
    with pytest.raises(fnn.InputError):
        make(np.ma.masked_array([0.3], [True])[0])
