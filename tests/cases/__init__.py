"""Every public layer and loss: one file a family."""

from tests.cases import (
    activation,
    attention,
    compound,
    dense,
    embedding,
    function,
    gated,
    hard,
    losses,
    noise,
    norm,
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
    noise,
    shape,
    function,
    embedding,
    attention,
    transformer,
    losses,
    compound,
)
LAYERS: list[LayerCase] = [case for family in FAMILIES for case in family.LAYERS]
LOSSES: list[LossCase] = losses.LOSSES

__all__ = ["LAYERS", "LOSSES", "LayerCase", "LossCase", "makers", "public"]
