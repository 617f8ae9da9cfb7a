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
from fnn.layer import Layer, autodiff, stateless, use_autodiff, use_rules
from fnn.layers.activation import (
    elu,
    gelu,
    identity,
    leaky_relu,
    mish,
    relu,
    selu,
    sigmoid,
    sign,
    silu,
    softplus,
    straight_through_sign,
    tanh,
)
from fnn.layers.batch_norm import batch_norm
from fnn.layers.dense import dense
from fnn.layers.dropout import dropout, gaussian_noise, spatial_dropout
from fnn.layers.norm import group_norm, instance_norm, layer_norm, rms_norm
from fnn.layers.shape import flatten, reshape
from fnn.layers.softmax import log_softmax, softmax
from fnn.model import children, map_layers
from fnn.origin import constructor
from fnn.reversible import reversible
from fnn.sequence import Sequence, on_values
from fnn.train.checkpoint import load_weights, save_weights
from fnn.train.evaluate import accuracy, evaluate, predict
from fnn.train.fit import History, fit
from fnn.train.step import TrainState, init_train_state, train_step
from fnn.wrap import remat, repeat, residual

if TYPE_CHECKING:
    from fnn import datasets, plot
    from fnn.gradient.agreement import GradientError
    from fnn.gradient.check import check_layer
    from fnn.gradient.compare import Comparison, compare
    from fnn.gradient.tune import Tuning, tune
    from fnn.gradient.values import Trace, trace_values
    from fnn.layers.adaptive_pool import (
        adaptive_average_pool,
        adaptive_max_pool,
        global_average_pool,
        global_max_pool,
    )
    from fnn.layers.attention import attention
    from fnn.layers.cell import gru_cell, lstm_cell, rnn_cell
    from fnn.layers.conv import conv, depthwise_conv
    from fnn.layers.conv_transpose import conv_transpose
    from fnn.layers.embedding import embedding
    from fnn.layers.function import function
    from fnn.layers.gated import geglu, glu, prelu, swiglu
    from fnn.layers.hard import hard_sigmoid, hard_silu, hard_tanh, relu6
    from fnn.layers.head import LinearHead, linear_head
    from fnn.layers.pool import average_pool, max_pool
    from fnn.layers.position import positional, rotary
    from fnn.layers.recurrent import gru, last_step, lstm, rnn
    from fnn.layers.resize import upsample
    from fnn.layers.transformer import mlp, transformer_block
    from fnn.outline import summary
    from fnn.torch_weights import from_torch
    from fnn.train.generate import generate

# Loaded when asked for: a script starts without what it does not use.
_ON_DEMAND = {
    name: module
    for module, names in {
        "fnn.layers.adaptive_pool": (
            "adaptive_average_pool adaptive_max_pool global_average_pool global_max_pool"
        ),
        "fnn.gradient.agreement": "GradientError",
        "fnn.gradient.check": "check_layer",
        "fnn.gradient.compare": "Comparison compare",
        "fnn.gradient.tune": "Tuning tune",
        "fnn.gradient.values": "Trace trace_values",
        "fnn.layers.attention": "attention",
        "fnn.layers.cell": "gru_cell lstm_cell rnn_cell",
        "fnn.layers.conv": "conv depthwise_conv",
        "fnn.layers.conv_transpose": "conv_transpose",
        "fnn.layers.embedding": "embedding",
        "fnn.layers.function": "function",
        "fnn.layers.gated": "geglu glu prelu swiglu",
        "fnn.layers.hard": "hard_sigmoid hard_silu hard_tanh relu6",
        "fnn.layers.head": "LinearHead linear_head",
        "fnn.layers.pool": "average_pool max_pool",
        "fnn.layers.position": "positional rotary",
        "fnn.layers.recurrent": "gru last_step lstm rnn",
        "fnn.layers.resize": "upsample",
        "fnn.layers.transformer": "mlp transformer_block",
        "fnn.outline": "summary",
        "fnn.torch_weights": "from_torch",
        "fnn.train.generate": "generate",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """Load what is loaded on demand."""
    import importlib

    if name in ("datasets", "plot"):
        return importlib.import_module(f"fnn.{name}")
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
    "Trace",
    "TrainState",
    "Tuning",
    "accuracy",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "add",
    "attention",
    "autodiff",
    "average_pool",
    "batch_norm",
    "check_layer",
    "children",
    "compare",
    "concatenate",
    "constructor",
    "conv",
    "conv_transpose",
    "datasets",
    "dense",
    "depthwise_conv",
    "dropout",
    "elu",
    "embedding",
    "evaluate",
    "fit",
    "flatten",
    "from_torch",
    "function",
    "gaussian_noise",
    "geglu",
    "gelu",
    "generate",
    "global_average_pool",
    "global_max_pool",
    "glu",
    "group_norm",
    "gru",
    "gru_cell",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "identity",
    "init_train_state",
    "instance_norm",
    "last_step",
    "layer_norm",
    "leaky_relu",
    "linear_head",
    "load_weights",
    "log_softmax",
    "losses",
    "lstm",
    "lstm_cell",
    "map_layers",
    "max_pool",
    "mish",
    "mlp",
    "on_values",
    "optim",
    "parallel",
    "plot",
    "positional",
    "predict",
    "prelu",
    "relu",
    "relu6",
    "remat",
    "repeat",
    "reshape",
    "residual",
    "reversible",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rotary",
    "save_weights",
    "selu",
    "serial",
    "sigmoid",
    "sign",
    "silu",
    "softmax",
    "softplus",
    "spatial_dropout",
    "stateless",
    "straight_through_sign",
    "summary",
    "swiglu",
    "tanh",
    "trace_values",
    "train_step",
    "transformer_block",
    "tune",
    "upsample",
    "use_autodiff",
    "use_rules",
    "value_and_grad",
]
