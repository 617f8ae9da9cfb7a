from fnn.losses._loss import Loss as Loss, mean as mean
from fnn.losses.autodiff import autodiff as autodiff
from fnn.losses.classification import (
    cross_entropy as cross_entropy,
    focal as focal,
    kl_divergence as kl_divergence,
    multiclass_hinge as multiclass_hinge,
    nll as nll,
    zero_one as zero_one,
)
from fnn.losses.ctc import ctc as ctc
from fnn.losses.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from fnn.losses.regression import (
    absolute_error as absolute_error,
    binary_cross_entropy as binary_cross_entropy,
    cosine_distance as cosine_distance,
    hinge as hinge,
    huber as huber,
    logistic as logistic,
    poisson as poisson,
    squared_error as squared_error,
)
from fnn.losses.weighted_sum import weighted_sum as weighted_sum
