"""Every public layer and loss: one file a family."""

from tests.cases import (
    activation,
    attention,
    compound,
    conv,
    dense,
    embedding,
    function,
    gated,
    hard,
    losses,
    noise,
    norm,
    own,
    pool,
    recurrent,
    shape,
    transformer,
)
from tests.cases.case import LayerCase, LossCase, makers, public

FAMILIES = (
    dense,
    activation,
    hard,
    gated,
    norm,
    conv,
    pool,
    recurrent,
    noise,
    shape,
    function,
    embedding,
    attention,
    transformer,
    losses,
    compound,
    own,
)
LAYERS: list[LayerCase] = [case for family in FAMILIES for case in family.LAYERS]
LOSSES: list[LossCase] = losses.LOSSES

__all__ = ["LAYERS", "LOSSES", "LayerCase", "LossCase", "makers", "public"]
