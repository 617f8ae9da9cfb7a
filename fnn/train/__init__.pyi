from fnn._core.atomic_write import atomic_write as atomic_write, output_folder as output_folder
from fnn.train._progress import Progress as Progress
from fnn.train.metrics import Metric as Metric, Metrics as Metrics
from fnn.train.step import TrainStep as TrainStep
