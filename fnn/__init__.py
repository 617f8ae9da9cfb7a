"""fnn: neural networks as pure functions, with every gradient derived by hand.

The alphabet of every docstring: B batch, T time, H and W height and width, C channels (last), I
inputs, O outputs, K classes, N heads; ``(...)`` any number of axes. ``dy`` is the cotangent of y:
the derivative of the objective in y. Parameters are named weight, bias, scale and shift, and state
mean and var. A `rate` is the fraction dropped.
"""

from typing import TYPE_CHECKING, Any

from fnn import losses, optim
from fnn.combine import add, concatenate, parallel, serial
from fnn.errors import InputError
from fnn.gradient.objective import value_and_grad
from fnn.layer import Layer, autodiff, stateless, use_rules
from fnn.layers.activation import (
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    sign,
    silu,
    softmax,
    softplus,
    straight_through_sign,
    tanh,
)
from fnn.layers.dense import dense
from fnn.layers.dropout import dropout
from fnn.layers.norm import batch_norm
from fnn.layers.shape import flatten
from fnn.model import children, map_layers
from fnn.origin import constructor
from fnn.sequence import Sequence, on_values
from fnn.train.checkpoint import load_weights, save_weights
from fnn.train.evaluate import accuracy, evaluate, predict
from fnn.train.fit import History, fit
from fnn.train.step import TrainState, init_train_state, train_step
from fnn.wrap import remat, repeat, residual

if TYPE_CHECKING:
    from fnn import datasets
    from fnn.gradient.check import GradientError, check_layer
    from fnn.gradient.compare import Comparison, compare
    from fnn.layers.head import LinearHead, linear_head
    from fnn.outline import summary

# Loaded when asked for: a script starts without what it does not use.
_ON_DEMAND = {
    name: module
    for module, names in {
        "fnn.gradient.check": "GradientError check_layer",
        "fnn.gradient.compare": "Comparison compare",
        "fnn.layers.attention": "attention",
        "fnn.layers.cell": "gru_cell lstm_cell rnn_cell",
        "fnn.layers.conv": "conv conv_transpose depthwise_conv",
        "fnn.layers.embedding": "embedding",
        "fnn.layers.function": "function",
        "fnn.layers.gated": "geglu glu prelu swiglu",
        "fnn.layers.hard": "hard_sigmoid hard_silu hard_tanh relu6",
        "fnn.layers.head": "LinearHead linear_head",
        "fnn.layers.pool": (
            "adaptive_average_pool adaptive_max_pool average_pool global_average_pool "
            "global_max_pool max_pool"
        ),
        "fnn.layers.position": "positional rotary",
        "fnn.layers.recurrent": "gru last_step lstm rnn",
        "fnn.layers.resize": "upsample",
        "fnn.layers.transformer": "mlp transformer_block",
        "fnn.outline": "summary",
        "fnn.reversible": "reversible",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """Load what is loaded on demand."""
    import importlib

    if name == "datasets":
        return importlib.import_module("fnn.datasets")
    if name in _ON_DEMAND:
        return getattr(importlib.import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module 'fnn' has no attribute {name!r}")


__all__ = [
    "Comparison",
    "GradientError",
    "History",
    "InputError",
    "Layer",
    "LinearHead",
    "Sequence",
    "TrainState",
    "accuracy",
    "add",
    "autodiff",
    "batch_norm",
    "check_layer",
    "children",
    "compare",
    "concatenate",
    "constructor",
    "datasets",
    "dense",
    "dropout",
    "elu",
    "evaluate",
    "fit",
    "flatten",
    "gelu",
    "identity",
    "init_train_state",
    "leaky_relu",
    "linear_head",
    "load_weights",
    "log_softmax",
    "losses",
    "map_layers",
    "on_values",
    "optim",
    "parallel",
    "predict",
    "relu",
    "remat",
    "repeat",
    "residual",
    "save_weights",
    "serial",
    "sigmoid",
    "sign",
    "silu",
    "softmax",
    "softplus",
    "stateless",
    "straight_through_sign",
    "summary",
    "tanh",
    "train_step",
    "use_rules",
    "value_and_grad",
]
