"""fnn: neural networks as pure functions, with every gradient derived by hand.

The alphabet of every docstring: B batch, T time, H and W height and width, C channels (last), I
inputs, O outputs, K classes, N heads; ``(...)`` any number of axes. ``dy`` is the cotangent of y:
the derivative of the objective in y. Parameters are named weight, bias, scale and shift, and state
mean and var. A `rate` is the fraction dropped.
"""

from typing import TYPE_CHECKING

from fnn import losses, optim
from fnn.combine import add, concatenate, parallel, serial
from fnn.errors import InputError
from fnn.gradient.objective import value_and_grad
from fnn.layer import Layer, autodiff, stateless, use_autodiff, use_rules
from fnn.layers.activation import (
    elu,
    identity,
    leaky_relu,
    relu,
    selu,
    sigmoid,
    sign,
    softplus,
    straight_through_sign,
    tanh,
)
from fnn.layers.dense import dense
from fnn.layers.dropout import dropout, gaussian_noise, spatial_dropout
from fnn.layers.shape import flatten, reshape
from fnn.model import children, map_layers
from fnn.on_demand import on_demand
from fnn.origin import constructor
from fnn.pair import cross_residual, on_first
from fnn.reversible import reversible
from fnn.sequence import Sequence, on_values
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
    from fnn.layers.batch_norm import batch_norm
    from fnn.layers.cell import gru_cell, lstm_cell, rnn_cell
    from fnn.layers.conv import conv, depthwise_conv
    from fnn.layers.conv_transpose import conv_transpose
    from fnn.layers.embedding import embedding
    from fnn.layers.function import function
    from fnn.layers.gated import geglu, glu, prelu, swiglu
    from fnn.layers.hard import hard_sigmoid, hard_silu, hard_tanh, relu6
    from fnn.layers.head import LinearHead, linear_head
    from fnn.layers.norm import group_norm, instance_norm, layer_norm, rms_norm
    from fnn.layers.pool import average_pool, max_pool
    from fnn.layers.position import positional, rotary
    from fnn.layers.recurrent import gru, last_step, lstm, rnn
    from fnn.layers.resize import upsample
    from fnn.layers.self_gated import gelu, mish, silu
    from fnn.layers.softmax import log_softmax, softmax
    from fnn.layers.transformer import mlp, transformer_block
    from fnn.outline import summary
    from fnn.torch_weights import from_torch
    from fnn.train.checkpoint import load_weights, save_weights
    from fnn.train.generate import generate
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "gradient.agreement": "GradientError",
            "gradient.check": "check_layer",
            "gradient.compare": "Comparison compare",
            "gradient.tune": "Tuning tune",
            "gradient.values": "Trace trace_values",
            "layers.adaptive_pool": (
                "adaptive_average_pool adaptive_max_pool global_average_pool global_max_pool"
            ),
            "layers.attention": "attention",
            "layers.batch_norm": "batch_norm",
            "layers.cell": "gru_cell lstm_cell rnn_cell",
            "layers.conv": "conv depthwise_conv",
            "layers.conv_transpose": "conv_transpose",
            "layers.embedding": "embedding",
            "layers.function": "function",
            "layers.gated": "geglu glu prelu swiglu",
            "layers.hard": "hard_sigmoid hard_silu hard_tanh relu6",
            "layers.head": "LinearHead linear_head",
            "layers.norm": "group_norm instance_norm layer_norm rms_norm",
            "layers.pool": "average_pool max_pool",
            "layers.position": "positional rotary",
            "layers.recurrent": "gru last_step lstm rnn",
            "layers.resize": "upsample",
            "layers.self_gated": "gelu mish silu",
            "layers.softmax": "log_softmax softmax",
            "layers.transformer": "mlp transformer_block",
            "outline": "summary",
            "torch_weights": "from_torch",
            "train.checkpoint": "load_weights save_weights",
            "train.generate": "generate",
        },
        submodules="datasets plot",
    )

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
    "cross_residual",
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
    "on_first",
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
