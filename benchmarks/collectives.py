"""What devices send each other in a training step, by hand and by autodiff.

    python benchmarks/collectives.py [--only NAME] [--json FILE]

The step of a data-parallel model, value and gradient with the batch over 8 simulated devices and
the parameters on each of them, is compiled in the automatic mode; the collectives of the compiled
program are counted, those in a loop at every turn, and the bytes of their results on a device
added up. Nothing is run, so that there are no times here; `--rounds` does nothing. The program is
one for CPUs, where convolutions in groups are summed by hand with zeros between the groups: those
sums travel too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from measure import Row, arguments, machine, picked, report, watched, write

import fnn
from fnn.lab.plan import collectives

DEVICES, BATCH = 8, 64


def images() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((BATCH, 16, 16, 3), jnp.float32)


def numbers() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((BATCH, 64), jnp.float32)


def texts() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((BATCH, 16), jnp.int32)


def cases() -> dict[str, tuple[fnn.Layer, jax.ShapeDtypeStruct, fnn.losses.Loss]]:
    """Return models by name, with the shape of x and the loss."""
    cross_entropy, last = fnn.losses.cross_entropy(), (fnn.last_step(), fnn.dense(10))
    embedded = fnn.embedding(50, 32)

    def over_time(layer: fnn.Layer) -> fnn.Layer:
        return fnn.serial(embedded, layer, *last)

    block = fnn.transformer_block(4, causal=True, dropout=0.1)
    return {
        "mlp": (fnn.serial(fnn.dense(128), fnn.tanh(), fnn.dense(10)), numbers(), cross_entropy),
        "mlp-dropout": (
            fnn.serial(fnn.dense(128), fnn.relu(), fnn.dropout(0.2), fnn.dense(10)),
            numbers(),
            cross_entropy,
        ),
        "swiglu": (
            fnn.serial(fnn.mlp(128, activation="swiglu"), fnn.rms_norm(), fnn.dense(10)),
            numbers(),
            cross_entropy,
        ),
        "cnn": (
            fnn.serial(
                fnn.conv(16, 3), fnn.relu(), fnn.max_pool(2), fnn.conv(16, 3, stride=2),
                fnn.gelu(), fnn.flatten(), fnn.dense(10),
            ),
            images(),
            cross_entropy,
        ),
        "cnn-batch_norm": (
            fnn.serial(
                fnn.conv(16, 3), fnn.batch_norm(), fnn.relu(), fnn.spatial_dropout(0.1),
                fnn.global_average_pool(), fnn.dense(10),
            ),
            images(),
            cross_entropy,
        ),
        "cnn-depthwise": (
            fnn.serial(fnn.depthwise_conv(3), fnn.global_average_pool(), fnn.dense(10)),
            images(),
            cross_entropy,
        ),
        "rnn": (over_time(fnn.rnn(32)), texts(), cross_entropy),
        "lstm": (over_time(fnn.lstm(32, layers=2)), texts(), cross_entropy),
        "gru": (over_time(fnn.gru(32, bidirectional=True)), texts(), cross_entropy),
        "transformer": (over_time(fnn.repeat(block, 2)), texts(), cross_entropy),
        "linear_head": (
            fnn.serial(fnn.dense(32), fnn.layer_norm(), fnn.linear_head(1000)),
            numbers(),
            fnn.losses.linear_cross_entropy(chunk=256),
        ),
    }  # fmt: skip


def compiled(
    model: fnn.Layer, x: jax.ShapeDtypeStruct, loss: fnn.losses.Loss, gradient: str
) -> str:
    """Return the compiled program of value and gradient."""
    devices = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))

    def placed(tree: object, spec: PartitionSpec) -> object:
        layout = NamedSharding(devices, spec)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=layout), tree)

    whole, spread = PartitionSpec(), PartitionSpec("data")
    params, state = placed(jax.eval_shape(model.init, jax.random.key(0), x), whole)
    target = jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)
    step = jax.jit(
        lambda p, s, x, t, key: fnn.value_and_grad(model, loss, gradient)(p, s, (x, t), key=key),
        out_shardings=NamedSharding(devices, whole),
    )
    key = jax.eval_shape(jax.random.key, 0)
    return step.lower(params, state, *placed((x, target), spread), key).compile().as_text()


def main() -> None:
    options = arguments(__doc__, rounds=1)
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(machine())
    rows: list[Row] = []
    for name, (model, x, loss) in watched(cases().items()):
        if not picked(name, options):
            continue
        row: Row = {"name": name, "size": f"{BATCH} x {x.shape[1:]}"}
        for gradient in ("manual", "auto"):
            sent = collectives(compiled(model, x, loss, gradient)).values()
            count, size = sum(one.times for one in sent), sum(one.bytes for one in sent)
            row |= {f"{gradient}_count": count, f"{gradient}_bytes": size}
        rows.append(row)
    report(rows, ["name", "size", "manual_count", "auto_count", "manual_bytes", "auto_bytes"])
    write(rows, options.json)


if __name__ == "__main__":
    main()
