from fnn import (
    datasets as datasets,
    interop as interop,
    lab as lab,
    landscapes as landscapes,
    losses as losses,
    networks as networks,
    optim as optim,
    plot as plot,
    train as train,
)
from fnn._core.description import constructor as constructor
from fnn._core.errors import InputError as InputError
from fnn._core.linear_head import LinearHead as LinearHead
from fnn.cli.load_run import Run as Run, load_run as load_run
from fnn.combinators.cross import (
    over_memory as over_memory,
    over_query as over_query,
    residual_cross as residual_cross,
    take_query as take_query,
)
from fnn.combinators.eval_mode import eval_mode as eval_mode
from fnn.combinators.join import add as add, concatenate as concatenate
from fnn.combinators.lora import lora as lora, merge_lora as merge_lora
from fnn.combinators.over_parts import over_parts as over_parts
from fnn.combinators.parallel import parallel as parallel
from fnn.combinators.remat import remat as remat
from fnn.combinators.repeat import repeat as repeat
from fnn.combinators.residual import residual as residual
from fnn.combinators.reversible import reversible as reversible
from fnn.combinators.sequence import Sequence as Sequence, over_sequence as over_sequence
from fnn.combinators.serial import serial as serial
from fnn.combinators.shared import shared as shared
from fnn.combinators.walk import children as children, map_layers as map_layers
from fnn.gradient.estimators.dp_sgd import dp_sgd as dp_sgd, privacy_spent as privacy_spent
from fnn.gradient.estimators.label_noise import label_noise as label_noise
from fnn.gradient.objective import (
    Batch as Batch,
    Estimator as Estimator,
    value_and_grad as value_and_grad,
)
from fnn.interop.export import (
    Exported as Exported,
    export_forward as export_forward,
    export_step as export_step,
)
from fnn.interop.onnx import export_onnx as export_onnx
from fnn.interop.torch import from_torch as from_torch
from fnn.lab.agreement import GradientError as GradientError
from fnn.lab.check import check_layer as check_layer
from fnn.lab.check_loss import check_loss as check_loss
from fnn.lab.compare import Comparison as Comparison, compare as compare
from fnn.lab.graph import Graph as Graph, graph as graph
from fnn.lab.summary import summary as summary
from fnn.lab.trace import Activations as Activations, trace_activations as trace_activations
from fnn.lab.tune import Tuning as Tuning, tune as tune
from fnn.layer import (
    Layer as Layer,
    autodiff as autodiff,
    positionwise as positionwise,
    stateful as stateful,
    stateless as stateless,
    use_auto as use_auto,
    use_manual as use_manual,
)
from fnn.layers.activation.gated import geglu as geglu, glu as glu, prelu as prelu, swiglu as swiglu
from fnn.layers.activation.hard import (
    hard_sigmoid as hard_sigmoid,
    hard_silu as hard_silu,
    hard_tanh as hard_tanh,
    relu6 as relu6,
)
from fnn.layers.activation.piecewise import (
    elu as elu,
    identity as identity,
    leaky_relu as leaky_relu,
    relu as relu,
    selu as selu,
    sigmoid as sigmoid,
    sign as sign,
    softplus as softplus,
    straight_through_sign as straight_through_sign,
    tanh as tanh,
)
from fnn.layers.activation.smooth import gelu as gelu, mish as mish, silu as silu
from fnn.layers.activation.softmax import log_softmax as log_softmax, softmax as softmax
from fnn.layers.attention.attention import attention as attention
from fnn.layers.attention.position import positional as positional, rotary as rotary
from fnn.layers.attention.transformer import mlp as mlp, transformer_block as transformer_block
from fnn.layers.conv.conv import conv as conv, depthwise_conv as depthwise_conv
from fnn.layers.conv.conv_transpose import conv_transpose as conv_transpose
from fnn.layers.dense import dense as dense
from fnn.layers.dropout import (
    dropout as dropout,
    gaussian_noise as gaussian_noise,
    spatial_dropout as spatial_dropout,
)
from fnn.layers.embedding import embedding as embedding
from fnn.layers.from_function import from_function as from_function
from fnn.layers.linear_head import linear_head as linear_head
from fnn.layers.norm.batch_norm import batch_norm as batch_norm
from fnn.layers.norm.layer_norm import (
    group_norm as group_norm,
    instance_norm as instance_norm,
    layer_norm as layer_norm,
    rms_norm as rms_norm,
)
from fnn.layers.norm.update_batch_norm import update_batch_norm as update_batch_norm
from fnn.layers.pool.adaptive_pool import (
    adaptive_average_pool as adaptive_average_pool,
    adaptive_max_pool as adaptive_max_pool,
    global_average_pool as global_average_pool,
    global_max_pool as global_max_pool,
)
from fnn.layers.pool.pool import average_pool as average_pool, max_pool as max_pool
from fnn.layers.pool.upsample import upsample as upsample
from fnn.layers.recurrent.cell import (
    gru_cell as gru_cell,
    lstm_cell as lstm_cell,
    rnn_cell as rnn_cell,
)
from fnn.layers.recurrent.recurrent import (
    gru as gru,
    last_step as last_step,
    lstm as lstm,
    rnn as rnn,
)
from fnn.layers.shape import flatten as flatten, reshape as reshape
from fnn.layers.unembedding import unembedding as unembedding
from fnn.train.evaluate import evaluate as evaluate, predict as predict
from fnn.train.files.checkpoint import (
    load_train_state as load_train_state,
    save_train_state as save_train_state,
)
from fnn.train.files.weights import load_weights as load_weights, save_weights as save_weights
from fnn.train.fit import History as History, fit as fit
from fnn.train.generation.generate import generate as generate, generate_stream as generate_stream
from fnn.train.metrics import accuracy as accuracy
from fnn.train.precision import mixed_precision as mixed_precision
from fnn.train.step import (
    TrainState as TrainState,
    init_train_state as init_train_state,
    train_step as train_step,
)
from fnn.train.sweep.sweep import sweep as sweep

__version__: str
