from fnn._core.table import in_bytes as in_bytes, table as table
from fnn.lab._answers import check_answer as check_answer
from fnn.lab._directions import Direction as Direction
from fnn.lab._graph import (
    Edge as Edge,
    Exercise as Exercise,
    Frame as Frame,
    Mark as Mark,
    Marks as Marks,
    Node as Node,
)
from fnn.lab._measure import (
    Measurement as Measurement,
    Way as Way,
    both_ways as both_ways,
    choose as choose,
    interleaved as interleaved,
    machine as machine,
    measure as measure,
)
from fnn.lab.agreement import Agreement as Agreement, Report as Report
from fnn.lab.compare import Leaf as Leaf
from fnn.lab.cost import Cost as Cost
from fnn.lab.plan import Plan as Plan, Sent as Sent, plan as plan
from fnn.lab.summary import LayerRow as LayerRow, Summary as Summary, layer_shapes as layer_shapes
from fnn.lab.tolerance import difference as difference, rounding as rounding
from fnn.lab.trace import Flow as Flow, LayerFlow as LayerFlow
