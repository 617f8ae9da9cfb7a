from fnn._core.atomic_write import atomic_write as atomic_write, output_folder as output_folder
from fnn.train import callbacks as callbacks, transforms as transforms
from fnn.train.files.checkpoint import Checkpoint as Checkpoint, checkpoint_info as checkpoint_info
from fnn.train.files.checkpoint_folder import (
    Checkpoints as Checkpoints,
    best_checkpoint as best_checkpoint,
    latest_checkpoint as latest_checkpoint,
)
from fnn.train.files.sharded_checkpoints import ShardedCheckpoints as ShardedCheckpoints
from fnn.train.learning_rate import (
    LearningRates as LearningRates,
    find_learning_rate as find_learning_rate,
)
from fnn.train.loop._progress import Progress as Progress
from fnn.train.metrics import Metric as Metric, Metrics as Metrics
from fnn.train.precision import Precision as Precision
from fnn.train.sharding import (
    Sharding as Sharding,
    shard as shard,
    tensor_parallel as tensor_parallel,
)
from fnn.train.step import TrainStep as TrainStep
from fnn.train.sweep.points import (
    between as between,
    grid as grid,
    random_points as random_points,
    sobol_points as sobol_points,
)
from fnn.train.sweep.sweep import Sweep as Sweep
