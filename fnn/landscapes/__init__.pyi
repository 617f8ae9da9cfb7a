from fnn.landscapes.functions import (
    Landscape as Landscape,
    double_well as double_well,
    himmelblau as himmelblau,
    octopus as octopus,
    quadratic as quadratic,
    rastrigin as rastrigin,
    rosenbrock as rosenbrock,
    saddle as saddle,
)
from fnn.landscapes.trajectory import Trajectory as Trajectory, descend as descend
