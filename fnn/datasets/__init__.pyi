from fnn.datasets._dataset import Dataset as Dataset
from fnn.datasets.digits import digits as digits
from fnn.datasets.fashion_mnist import fashion_mnist as fashion_mnist, read_idx as read_idx
from fnn.datasets.text import (
    BytePairText as BytePairText,
    Text as Text,
    byte_pairs as byte_pairs,
    text as text,
)
from fnn.datasets.toys import (
    clouds as clouds,
    sine as sine,
    spirals as spirals,
    xor as xor,
)
