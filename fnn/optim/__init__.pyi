from fnn.optim import schedule as schedule
from fnn.optim._norms import global_norm as global_norm
from fnn.optim.noise import distributions as distributions
from fnn.optim.noise.additive import (
    anticorrelated_noise as anticorrelated_noise,
    gradient_noise as gradient_noise,
    sphere_noise as sphere_noise,
    weight_noise as weight_noise,
)
from fnn.optim.noise.langevin import baoab as baoab, psgld as psgld, sghmc as sghmc, sgld as sgld
from fnn.optim.noise.perturbed import perturbed as perturbed
from fnn.optim.optimizer import (
    Optimizer as Optimizer,
    chain as chain,
    eval_params as eval_params,
    take_step as take_step,
)
from fnn.optim.optimizers.adafactor import adafactor as adafactor
from fnn.optim.optimizers.adam import (
    adam as adam,
    adamax as adamax,
    adamw as adamw,
    amsgrad as amsgrad,
    nadam as nadam,
    radam as radam,
)
from fnn.optim.optimizers.adaptive import (
    adadelta as adadelta,
    adagrad as adagrad,
    lion as lion,
    rmsprop as rmsprop,
)
from fnn.optim.optimizers.layerwise import lamb as lamb, lars as lars
from fnn.optim.optimizers.muon import muon as muon
from fnn.optim.optimizers.sam import sam as sam
from fnn.optim.optimizers.schedule_free import (
    schedule_free_adamw as schedule_free_adamw,
    schedule_free_sgd as schedule_free_sgd,
)
from fnn.optim.optimizers.second_order import (
    backtracking as backtracking,
    lbfgs as lbfgs,
    sophia as sophia,
)
from fnn.optim.optimizers.sgd import (
    momentum as momentum,
    nesterov as nesterov,
    sgd as sgd,
    weight_decay as weight_decay,
)
from fnn.optim.transforms import constraint as constraint
from fnn.optim.transforms.averaging import ema as ema, lookahead as lookahead
from fnn.optim.transforms.clip import (
    clip_by_global_norm as clip_by_global_norm,
    clip_by_norm as clip_by_norm,
    clip_by_unit_norm as clip_by_unit_norm,
    clip_by_value as clip_by_value,
)
from fnn.optim.transforms.constraint import project as project
from fnn.optim.transforms.groups import (
    by_path as by_path,
    freeze as freeze,
    masked as masked,
    unstack as unstack,
)
from fnn.optim.transforms.wrappers import (
    accumulate as accumulate,
    nonfinite_leaf as nonfinite_leaf,
    reduce_on_plateau as reduce_on_plateau,
    skip_nonfinite as skip_nonfinite,
)
