"""Descriptions: immutable, equal only where that is certain, and numbers that compile nothing."""

import copy
import dataclasses
import functools
import logging
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import landscapes, losses, optim
from fnn._core.description import split

KEY = jax.random.key(3)
X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")
MADE = {
    "layer": fnn.dense(3),
    "loss": losses.huber(0.5),
    "optimizer": optim.adam(0.1),
    "schedule": optim.schedule.cosine(0.1, 10),
    "distribution": optim.distributions.laplace(),
    "constraint": optim.constraint.box(-1.0, 1.0),
    "estimator": fnn.label_noise(std=0.1),
    "landscape": landscapes.saddle(),
}


def compiled(caplog, function):
    """Return what function() gives, and how many programs it made JAX compile."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        result = function()
    return result, sum("Compiling" in r.getMessage() for r in caplog.records)


def fitted(optimizer=None, model=None, **options):
    model = fnn.dense(2) if model is None else model
    optimizer = optim.sgd(0.1) if optimizer is None else optimizer
    options = {"key": KEY, "epochs": 2, "batch_size": 8, "loss": losses.squared_error()} | options
    return fnn.fit(model, optimizer=optimizer, data=(X, Y), **options)[0]


@pytest.mark.parametrize("name", MADE)
def test_nothing_is_assigned_after_construction(name):
    made = MADE[name]
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


@pytest.mark.parametrize("name", MADE)
def test_a_record_prints_as_its_call_and_a_changed_one_is_another(name):
    made = MADE[name]
    assert repr(made) == repr(made.call)
    changed = dataclasses.replace(made, call=None)
    assert changed != made
    assert made == made
    assert hash(made) == hash(made)


KEYED = {
    "noise": optim.sgld(0.1, temperature=0.1, key=KEY),
    "in a chain": optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.1)),
    "a model": fnn.serial(fnn.dense(4), fnn.use_auto(fnn.tanh()), fnn.dense(2)),
    "keys of the old style": optim.gradient_noise(variance=0.1, key=jax.random.PRNGKey(3)),
}


@pytest.mark.parametrize("made", [*MADE.values(), *KEYED.values()], ids=[*MADE, *KEYED])
def test_a_record_is_pickled_by_its_call_and_copied_as_itself(made):
    found = pickle.loads(pickle.dumps(made))
    assert found == made
    assert repr(found) == repr(made)
    assert copy.copy(made) is copy.deepcopy(made) is made


def test_a_record_without_a_call_says_why_it_is_not_pickled():
    with pytest.raises(fnn.InputError, match="expected a Layer that a constructor made"):
        pickle.dumps(fnn.Layer(*fnn.dense(3)))


def test_equality_is_that_of_the_arguments_types_and_arrays_by_value_included():
    assert fnn.dense(3) == fnn.dense(3)
    assert fnn.dense(3) != fnn.dense(4)
    assert fnn.leaky_relu(1) != fnn.leaky_relu(1.0)
    keys = [jax.random.key(seed) for seed in (1, 1, 2)]
    one, same, other = (optim.gradient_noise(0.1, key=key) for key in keys)
    assert one == same
    assert one != other


def test_what_is_made_of_a_users_function_is_equal_to_itself_alone():
    def bent(x):
        return x**2

    assert fnn.from_function(jnp.sin) == fnn.from_function(jnp.sin)
    assert fnn.from_function(bent) != fnn.from_function(bent)
    assert optim.sgd(lambda step: 0.1) != optim.sgd(lambda step: 0.1)


# Constructors of the user's that read a variable, which changes between two calls.
captured = {"number": 1.0}


@fnn.constructor
def layer():
    factor = captured["number"]
    return fnn.stateless(
        lambda key, x: (), lambda p, x: (factor * x, ()), lambda p, r, dy: ((), factor * dy)
    )


@fnn.constructor
def loss():
    factor = captured["number"]
    plain = losses.squared_error()
    return losses.Loss(
        lambda y, t: factor * plain.apply(y, t),
        lambda y, t: (factor * plain.apply(y, t), plain.forward(y, t)[1]),
        lambda residuals, dv: plain.backward(residuals, factor * dv),
        plain.check,
    )


@fnn.constructor
def optimizer():
    rate = 0.1 * captured["number"]
    return optim.Optimizer(
        lambda params: (), lambda g, s, p: (jax.tree.map(lambda g: -rate * g, g), s)
    )


@fnn.constructor
def schedule():
    rate = 0.1 * captured["number"]
    return optim.schedule.Schedule(lambda step: rate)


def read_when_called(step):
    return 0.1 * captured["number"]


@fnn.constructor
def estimator():
    factor = captured["number"]

    def of(model, loss):
        gradient = fnn.value_and_grad(model, loss)

        def scaled(params, state, batch, /, *, key=None):
            value, grads = gradient(params, state, batch, key=key)
            return value, jax.tree.map(lambda g: factor * g, grads)

        return scaled

    return fnn.Estimator(of)


STALE = {
    "layer": lambda: fitted(model=fnn.serial(layer(), fnn.dense(2))),
    "function in a layer": lambda: fitted(
        model=fnn.serial(fnn.from_function(lambda x: captured["number"] * x), fnn.dense(2))
    ),
    "loss": lambda: fitted(loss=loss()),
    "optimizer": lambda: fitted(optimizer()),
    "optimizer in a chain": lambda: fitted(optim.chain(optimizer())),
    "schedule": lambda: fitted(optim.sgd(schedule())),
    "function as a schedule": lambda: fitted(optim.sgd(read_when_called)),
    "estimator": lambda: fitted(gradient=estimator()),
}


@pytest.mark.parametrize("name", STALE)
def test_a_variable_that_a_constructor_reads_is_never_that_of_an_earlier_program(name):
    results = []
    for number in (1.0, 2.0):
        captured["number"] = number
        results.append(STALE[name]())
    jax.clear_caches()
    fresh = STALE[name]()
    weights = [np.asarray(result.params[-1]["weight"] if isinstance(result.params, tuple)
               else result.params["weight"]) for result in (*results, fresh)]  # fmt: skip
    assert (weights[0] != weights[1]).any()
    np.testing.assert_array_equal(weights[1], weights[2])


NETWORK = functools.partial(fnn.serial, fnn.dense(4), fnn.tanh())
NUMBERS = {
    "learning rate": lambda i: fitted(optim.adamw(0.001 * (i + 1))),
    "noise size": lambda i: fitted(
        optim.chain(optim.gradient_noise(0.001 * i, key=KEY), optim.sgd(0.1))
    ),
    "noise by path": lambda i: fitted(
        optim.chain(optim.weight_noise({"weight": 0.01 * i}, key=KEY), optim.sgd(0.1))
    ),
    "seed": lambda i: fitted(key=jax.random.key(i)),
    "key of the noise": lambda i: fitted(
        optim.chain(optim.sphere_noise(0.1, key=jax.random.key(i)), optim.sgd(0.1))
    ),
    "momentum": lambda i: fitted(optim.sgd(0.1, momentum=0.9 - 0.01 * i)),
    "weight decay": lambda i: fitted(optim.lion(0.01, weight_decay=0.1 + 0.01 * i)),
    "temperature": lambda i: fitted(optim.sgld(1e-4, 24, 0.5 + 0.1 * i, key=KEY)),
    "schedule value": lambda i: fitted(optim.sgd(optim.schedule.cosine(0.1 + 0.01 * i, 50))),
    "clipping": lambda i: fitted(
        optim.chain(optim.clip_by_global_norm(0.1 + 0.05 * i), optim.sgd(0.1))
    ),
    "dropout rate": lambda i: fitted(
        model=NETWORK(fnn.dropout(0.1 + 0.02 * i), fnn.dense(2))
    ),
    "noise in a layer": lambda i: fitted(
        model=NETWORK(fnn.gaussian_noise(0.1 + 0.02 * i), fnn.dense(2))
    ),
    "noise in the labels": lambda i: fitted(gradient=fnn.label_noise(std=0.1 + 0.1 * i)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_twenty_values_of_a_number_compile_nothing_after_the_first(name, caplog):
    first = NUMBERS[name](0)
    results, count = compiled(caplog, lambda: [NUMBERS[name](i) for i in range(1, 20)])
    assert count == 0
    leaves = [np.asarray(jax.tree.leaves(result.params)[-1]) for result in (first, *results)]
    assert len({leaf.tobytes() for leaf in leaves}) > 15


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_at_run_time_is_the_number_in_the_program(name):
    """Training that has other numbers in its program gives the same but for their rounding."""
    shared = NUMBERS[name](7)
    jax.clear_caches()
    alone = NUMBERS[name](7)
    for one, other in zip(*map(jax.tree.leaves, (shared.params, alone.params)), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_metric_of_ones_own_is_compiled_once(caplog):
    def close(prediction, target):
        return (jnp.abs(prediction - target) < 1).all(-1).astype(jnp.float32)

    model, loss = fnn.dense(2), losses.squared_error()
    params, state = model.init(KEY, X)

    def evaluate():
        return fnn.evaluate(model, loss, params, state, (X, Y), metrics={"close": close})

    first = evaluate()
    second, count = compiled(caplog, evaluate)
    assert (first, count) == (second, 0)


def test_what_shapes_the_program_compiles_one_of_its_own(caplog):
    fitted(optim.sgd(0.1, momentum=0.9))
    _, count = compiled(caplog, lambda: fitted(optim.sgd(0.1, momentum=0.0)))
    assert count > 0


def uniform_weights(scale):
    return fnn.dense(2, initializer=jax.nn.initializers.uniform(scale))


AT_INIT = {
    "an initializer": uniform_weights,
    "one in a chain": lambda scale: fnn.serial(fnn.tanh(), uniform_weights(scale)),
    "a forget bias": lambda bias: fnn.serial(
        fnn.reshape(1, 5), fnn.lstm(2, forget_bias=bias), fnn.reshape(2)
    ),
}


@pytest.mark.parametrize("name", AT_INIT)
def test_what_init_alone_reads_is_that_of_the_model_and_compiles_no_other_step(name):
    steps, starts = [], []
    for value in (0.5, 0.25):
        model, optimizer = AT_INIT[name](value), optim.sgd(0.1)
        steps.append(fnn.train_step(model, losses.squared_error(), optimizer))
        starts.append(fnn.init_train_state(model, optimizer, X, key=KEY))
    assert steps[0] is steps[1]
    assert AT_INIT[name](0.5) != AT_INIT[name](0.25)
    one, other = (jax.tree.leaves(start.params) for start in starts)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_a_fit_with_another_initializer_starts_there_and_compiles_the_draw_alone(caplog):
    fitted(model=uniform_weights(0.5), epochs=1)
    again, count = compiled(caplog, lambda: fitted(model=uniform_weights(0.0), epochs=0))
    assert count == 1
    assert (again.params["weight"] == 0).all()
    _, count = compiled(caplog, lambda: fitted(model=uniform_weights(0.25), epochs=1))
    assert count == 1


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_a_start_on_a_mesh_draws_by_the_initializer_of_its_model(scale):
    mesh = jax.make_mesh((1,), ("data",))
    on_mesh = fitted(model=uniform_weights(scale), epochs=0, mesh=mesh).params["weight"]
    np.testing.assert_array_equal(
        on_mesh, fitted(model=uniform_weights(scale), epochs=0).params["weight"]
    )


def test_equal_steps_share_a_compiled_program(caplog):
    def run(rate):
        optimizer, loss = optim.sgd(rate, momentum=0.5), losses.squared_error()
        train_state = fnn.init_train_state(fnn.dense(2), optimizer, X, key=KEY)
        step = jax.jit(fnn.train_step(fnn.dense(2), loss, optimizer))
        return step(train_state, (X, Y))[0]

    first = run(0.1)
    second, count = compiled(caplog, lambda: run(0.2))
    assert count == 0
    assert (first.params["weight"] != second.params["weight"]).any()


def test_hyperparameters_are_stacked_and_mapped_over():
    optimizer, loss = optim.sgd(0.1), losses.squared_error()
    start = fnn.init_train_state(fnn.dense(2), optimizer, X, key=KEY)
    step = fnn.train_step(fnn.dense(2), loss, optimizer)
    rates = jnp.array([0.1, 0.2])
    many = start._replace(hyperparameters={"optimizer/learning_rate": rates})
    axes = jax.tree.map(lambda _: None, start)._replace(
        hyperparameters={"optimizer/learning_rate": 0}
    )
    mapped, _ = jax.vmap(step, (axes, None))(many, (X, Y))
    for i, rate in enumerate(rates):
        one, _ = step(start._replace(hyperparameters={"optimizer/learning_rate": rate}), (X, Y))
        np.testing.assert_allclose(
            mapped.params["weight"][i], one.params["weight"], rtol=0, atol=1e-6
        )


def test_a_train_state_of_another_optimizer_is_refused_by_the_name_of_what_it_lacks():
    start = fnn.init_train_state(fnn.dense(2), optim.sgd(0.1), X, key=KEY)
    step = fnn.train_step(fnn.dense(2), losses.squared_error(), optim.adam(0.1, beta1=0.8))
    with pytest.raises(fnn.InputError, match=r"hyper-parameter 'optimizer/beta1'"):
        step(start, (X, Y))


def test_a_structure_is_built_again_of_its_numbers():
    made = optim.chain(
        optim.gradient_noise({"*/weight": 0.1}, key=KEY), optim.sgd(optim.schedule.cosine(0.5, 9))
    )
    structure, numbers = split(optimizer=made)
    assert sorted(numbers) == [
        "optimizer/0/key", "optimizer/0/variance/*/weight", "optimizer/1/learning_rate/value",
    ]  # fmt: skip
    assert structure.build(numbers)["optimizer"] == made
    assert split(optimizer=structure.build(numbers)["optimizer"])[0] == structure


# A combinator of the user's own is as good as a built-in one.


@fnn.constructor
def twice(first, second):
    """Both layers, one after the other, with parameters ``{"a": ..., "b": ...}``."""
    both = fnn.serial(a=first, b=second)
    return fnn.Layer(*both, children={"a": first, "b": second}, rebuild=twice)


def test_a_combinator_of_ones_own_is_transparent_to_every_tool():
    model = fnn.serial(fnn.dense(4), twice(fnn.dense(3), fnn.tanh()), fnn.dense(2))
    params, state = model.init(KEY, X)
    paths = ["0", "1/a", "1/b", "2"]
    assert [row.path for row in fnn.summary(model, X).rows] == paths
    loss, batch = losses.squared_error(), (X, Y)
    comparison = fnn.compare(model, loss, params, state, batch, key=KEY, costs=True)
    assert comparison.agrees
    assert [cost.path for cost in comparison.costs] == [*paths, ""]
    activations = fnn.trace_activations(model, loss, params, state, batch, key=KEY)
    assert [row.path for row in activations.layers] == paths
    tuned, tuning = fnn.tune(model, loss, batch, key=KEY, by="bytes")
    assert [cost.path for cost in tuning.costs] == paths
    tuned.apply(params, state, X)
    mapped = fnn.map_layers(lambda path, layer: fnn.use_auto(layer), model)
    assert {row.name for row in fnn.summary(mapped, X).rows} == {"dense (auto)", "tanh (auto)"}
    weights = {
        f"{i}.{name}": np.ones(shape, "float32")
        for i, (outputs, inputs) in enumerate([(4, 5), (3, 4), (2, 3)])
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }
    read, _ = fnn.from_torch(model, weights, X)
    assert read[1]["a"]["weight"].shape == (4, 3)
    frozen = fitted(optim.freeze(optim.sgd(0.1), "1/a/*"), model=model)
    moved = fitted(optim.sgd(0.1), model=model, epochs=0)
    np.testing.assert_array_equal(frozen.params[1]["a"]["weight"], moved.params[1]["a"]["weight"])


@pytest.mark.parametrize(
    ("layer", "paths"),
    [
        (fnn.mlp(), ["up", "activation", "down"]),
        (
            fnn.transformer_block(1),
            ["attention/norm", "attention/layer", "mlp/norm", "mlp/layer/up",
             "mlp/layer/activation", "mlp/layer/down"],
        ),
    ],
    ids=["mlp", "transformer_block"],
)  # fmt: skip
def test_layers_made_of_layers_are_transparent(layer, paths):
    x = np.ones((2, 3, 4), "float32")
    assert [row.path for row in fnn.summary(layer, x).rows] == paths
    assert repr(layer) == repr(layer.call)
    assert fnn.map_layers(lambda path, layer: layer, layer).init(KEY, x)[0].keys()


def test_a_layer_without_parameters_is_called_as_a_function():
    model = fnn.serial(fnn.flatten(), fnn.tanh())
    np.testing.assert_array_equal(model(X), jnp.tanh(X))
    with pytest.raises(fnn.InputError, match=r"expected a layer without parameters"):
        fnn.dense(3)(X)
    dropped = fnn.dropout(0.5)(X, key=KEY, train=True)
    assert 0 < np.mean(np.asarray(dropped) == 0) < 1


def test_layers_with_numbers_of_jax_among_their_options_are_equal():
    layers = [fnn.attention(2, dropout=jnp.float32(rate)) for rate in (0.5, 0.5, 0.25)]
    assert layers[0] == layers[1] != layers[2]


def test_a_constructor_that_exec_made_is_of_no_module_and_makes_layers_all_the_same():
    made = {"fnn": fnn}
    exec("@fnn.constructor\ndef own(width):\n    return fnn.dense(width)", made)
    assert made["own"].__module__ is None
    assert repr(made["own"](3)) == "own(3)"
