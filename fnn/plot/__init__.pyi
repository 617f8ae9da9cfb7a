from fnn.plot._figure import (
    BLUE as BLUE,
    GREEN as GREEN,
    ORANGE as ORANGE,
    RED as RED,
    save as save,
)
from fnn.plot.curves import curves as curves
from fnn.plot.descent import descent as descent
from fnn.plot.filters import filters as filters
from fnn.plot.gradients import gradients as gradients
from fnn.plot.graph import graph as graph
from fnn.plot.graph_page import graph_page as graph_page
from fnn.plot.predictions import predictions as predictions
