from fnn.plot._figure import (
    BLUE as BLUE,
    GREEN as GREEN,
    ORANGE as ORANGE,
    RED as RED,
    save as save,
)
from fnn.plot.activation_functions import activation_functions as activation_functions
from fnn.plot.activations import activations as activations
from fnn.plot.batch_histograms import batch_histograms as batch_histograms
from fnn.plot.confusion_matrix import confusion_matrix as confusion_matrix
from fnn.plot.curves import curves as curves
from fnn.plot.descent import descent as descent
from fnn.plot.dropout_masks import dropout_masks as dropout_masks
from fnn.plot.feature_maps import feature_maps as feature_maps
from fnn.plot.filters import filters as filters
from fnn.plot.gradients import gradients as gradients
from fnn.plot.graph import graph as graph
from fnn.plot.graph_page import graph_page as graph_page
from fnn.plot.heat_map import heat_map as heat_map
from fnn.plot.live_curves import live_curves as live_curves
from fnn.plot.loss_functions import loss_functions as loss_functions
from fnn.plot.parallel_coordinates import parallel_coordinates as parallel_coordinates
from fnn.plot.predictions import predictions as predictions
from fnn.plot.recurrence import recurrence as recurrence
from fnn.plot.regions import regions as regions
from fnn.plot.show import show as show
from fnn.plot.slider_page import slider_page as slider_page
from fnn.plot.sweep import sweep as sweep
