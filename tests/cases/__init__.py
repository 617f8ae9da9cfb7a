"""Every public layer and loss: one file a family."""

from tests.cases import activation, compound, dense, losses, noise, norm, shape
from tests.cases.case import LayerCase, LossCase, makers, public

LAYERS: list[LayerCase] = [
    case
    for family in (dense, activation, norm, noise, shape, losses, compound)
    for case in family.LAYERS
]
LOSSES: list[LossCase] = losses.LOSSES

__all__ = ["LAYERS", "LOSSES", "LayerCase", "LossCase", "makers", "public"]
