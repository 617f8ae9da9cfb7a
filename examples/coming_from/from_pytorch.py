"""From PyTorch: the same network, weights and batches in PyTorch and in fnn."""

import jax
import torch
from _digits import batches, compare
from torch import nn

import fnn

EPOCHS = 3


def in_pytorch(data):
    """Train in PyTorch; return the initial weights and the loss of every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss, losses = nn.CrossEntropyLoss(), []
    for x, y in data * EPOCHS:
        optimizer.zero_grad()
        value = loss(model(torch.tensor(x)), torch.tensor(y).long())
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return start, losses


def in_fnn(weights, data):
    """Train in fnn from this state_dict of PyTorch; return the loss of every step."""
    model = fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10))
    optimizer = fnn.optim.sgd(0.1, momentum=0.9)
    start = fnn.init_train_state(model, optimizer, data[0][0], key=jax.random.key(0))
    # From (outputs, inputs) to (inputs, outputs), layer by layer.
    params, _ = fnn.from_torch(model, weights, data[0][0])
    start = start._replace(params=params)
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, data, epochs=EPOCHS, start=start
    )
    return history.loss


if __name__ == "__main__":
    data = batches()
    weights, losses = in_pytorch(data)
    compare("PyTorch", losses, in_fnn(weights, data))
