"""Data to learn from: the embedded digits, and loaders of larger sets."""

from fnn.datasets.dataset import Dataset
from fnn.datasets.digits import digits
from fnn.datasets.idx import fashion_mnist, read_idx
from fnn.datasets.text import Text, text

__all__ = ["Dataset", "Text", "digits", "fashion_mnist", "read_idx", "text"]
