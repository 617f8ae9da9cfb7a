"""fnn: neural networks as pure functions, with every gradient derived by hand.

The alphabet of every docstring: B batch, T time, H and W height and width, C channels (last), I
inputs, O outputs, K classes, N heads; ``(...)`` any number of axes. ``dy`` is the cotangent of y:
the derivative of the objective in y. Parameters are named weight, bias, scale and shift, and state
mean and var. A `rate` is the fraction dropped.
"""

from fnn import datasets as datasets
from fnn import losses as losses
from fnn import optim as optim
from fnn.combine import add, concatenate, parallel, serial
from fnn.errors import InputError
from fnn.gradient.check import GradientError, check_layer
from fnn.gradient.compare import Comparison, compare
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
from fnn.summary import summary
from fnn.train.checkpoint import load_weights, save_weights
from fnn.train.evaluate import accuracy, evaluate, predict
from fnn.train.fit import History, fit
from fnn.train.step import TrainState, init_train_state, train_step
from fnn.wrap import remat, repeat, residual
