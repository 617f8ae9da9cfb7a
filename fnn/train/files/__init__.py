"""Files of training: checkpoints and weights."""
