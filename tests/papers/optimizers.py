"""Optimizers in numpy, one array at a time, as the papers state them.

A paper is a function ``(t, at, params, memory) -> (updates, memory)``: t counts from 0, `at` maps
parameters to value and gradient, parameters, gradients and updates are lists of arrays, and memory
is None at first. Written without a look at the optimizers under test, and with loops where the
paper has them.
"""

from __future__ import annotations

import numpy as np


def arraywise(formula):
    """Lift ``(t, g, p, memory) -> (update, memory)`` for one array, of optimizers that mix none."""

    def paper(t, at, params, memory):
        grads = at(params)[1]
        memory = memory or [None] * len(params)
        pairs = [formula(t, g, p, m) for g, p, m in zip(grads, params, memory, strict=True)]
        return [u for u, _ in pairs], [m for _, m in pairs]

    return paper


def sgd(rate, momentum=0.0, nesterov=False):
    def formula(t, g, p, v):
        v = g + (0 if v is None else momentum * v)
        return -(rate(t) if callable(rate) else rate) * (g + momentum * v if nesterov else v), v

    return arraywise(formula)


def weight_decay(rate):
    return arraywise(lambda t, g, p, m: (g + rate * p, None))


def adagrad(rate, epsilon, start):
    def formula(t, g, p, s):
        s = (start if s is None else s) + g**2
        return -rate * g / (np.sqrt(s) + epsilon), s

    return arraywise(formula)


def rmsprop(rate, decay, epsilon):
    def formula(t, g, p, v):
        v = decay * (0 if v is None else v) + (1 - decay) * g**2
        return -rate * g / (np.sqrt(v) + epsilon), v

    return arraywise(formula)


def adadelta(rate, decay, epsilon):
    def formula(t, g, p, memory):
        mean_g2, mean_d2 = memory or (0, 0)
        mean_g2 = decay * mean_g2 + (1 - decay) * g**2
        d = -np.sqrt(mean_d2 + epsilon) / np.sqrt(mean_g2 + epsilon) * g
        return rate * d, (mean_g2, decay * mean_d2 + (1 - decay) * d**2)

    return arraywise(formula)


def moments(t, g, memory, beta1, beta2):
    """Kingma and Ba's m, v and their unbiased m^, v^, with t from 0."""
    m, v = memory or (0, 0)
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return (m, v), m / (1 - beta1 ** (t + 1)), v / (1 - beta2 ** (t + 1))


def adam(rate, beta1, beta2, epsilon, decay=0.0):
    def formula(t, g, p, memory):
        memory, m, v = moments(t, g, memory, beta1, beta2)
        return -rate * (m / (np.sqrt(v) + epsilon) + decay * p), memory

    return arraywise(formula)


def nadam(rate, beta1, beta2, epsilon):
    def formula(t, g, p, memory):
        memory, _, v = moments(t, g, memory, beta1, beta2)
        m = beta1 * memory[0] / (1 - beta1 ** (t + 2)) + (1 - beta1) * g / (1 - beta1 ** (t + 1))
        return -rate * m / (np.sqrt(v) + epsilon), memory

    return arraywise(formula)


def radam(rate, beta1, beta2, epsilon):
    def formula(t, g, p, memory):
        memory, m, v = moments(t, g, memory, beta1, beta2)
        t, most = t + 1, 2 / (1 - beta2) - 1
        n = most - 2 * t * beta2**t / (1 - beta2**t)
        if n <= 4:
            return -rate * m, memory
        r = np.sqrt((n - 4) * (n - 2) * most / ((most - 4) * (most - 2) * n))
        return -rate * r * m / (np.sqrt(v) + epsilon), memory

    return arraywise(formula)


def amsgrad(rate, beta1, beta2, epsilon):
    def formula(t, g, p, memory):
        pair, largest = memory or (None, 0)
        pair, m, v = moments(t, g, pair, beta1, beta2)
        largest = np.maximum(largest, v)
        return -rate * m / (np.sqrt(largest) + epsilon), (pair, largest)

    return arraywise(formula)


def adamax(rate, beta1, beta2, epsilon):
    def formula(t, g, p, memory):
        m, u = memory or (0, 0)
        m, u = beta1 * m + (1 - beta1) * g, np.maximum(beta2 * u, abs(g) + epsilon)
        return -rate / (1 - beta1 ** (t + 1)) * m / u, (m, u)

    return arraywise(formula)


def lion(rate, beta1, beta2, decay):
    def formula(t, g, p, m):
        m = np.zeros_like(g) if m is None else m
        c = beta1 * m + (1 - beta1) * g
        return -rate * (np.sign(c) + decay * p), beta2 * m + (1 - beta2) * g

    return arraywise(formula)


def lars(rate, momentum, decay, trust):
    def formula(t, g, p, v):
        local = trust * norm(p) / (norm(g) + decay * norm(p)) if norm(p) and norm(g) else 1
        v = momentum * (0 if v is None else v) + rate * local * (g + decay * p)
        return -v, v

    return arraywise(formula)


def lamb(rate, beta1, beta2, epsilon, decay):
    def formula(t, g, p, memory):
        memory, m, v = moments(t, g, memory, beta1, beta2)
        r = m / (np.sqrt(v) + epsilon) + decay * p
        return -rate * (norm(p) / norm(r) if norm(p) and norm(r) else 1) * r, memory

    return arraywise(formula)


def adafactor(rate, decay, limit, epsilon1, epsilon2):
    """Matrices factored, all others not."""

    def formula(t, g, p, memory):
        share = 1 - (t + 1) ** -decay
        square = g**2 + epsilon1
        if g.ndim == 2:
            rows, columns = memory or (np.zeros(len(g)), np.zeros(len(g.T)))
            rows = share * rows + (1 - share) * square.sum(1)
            columns = share * columns + (1 - share) * square.sum(0)
            memory, v = (rows, columns), np.outer(rows, columns) / rows.sum()
        else:
            v = memory = share * (0 if memory is None else memory) + (1 - share) * square
        u = g / np.sqrt(v)
        u = u / max(1, rms(u) / limit)
        return -rate * max(epsilon2, rms(p)) * u, memory

    return arraywise(formula)


def muon(rate, momentum, nesterov, decay, iterations, epsilon, otherwise):
    """Matrices by Newton and Schulz, all others by another paper."""

    def formula(t, g, p, m):
        m = momentum * (0 if m is None else m) + (1 - momentum) * g
        x = momentum * m + (1 - momentum) * g if nesterov else m
        x = x / (norm(x) + epsilon)
        for _ in range(iterations):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return -rate * (max(1, g.shape[1] / g.shape[0]) ** 0.5 * x + decay * p), m

    return by_array(lambda i, p: p.ndim == 2, arraywise(formula), otherwise)


def schedule_free(rate, beta, decay, beta2=None, epsilon=None):
    def formula(t, g, y, memory):
        z, x, v, weight = memory or (y, y, 0, 0)
        way = g
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * g**2
            way = g / (np.sqrt(v / (1 - beta2 ** (t + 1))) + epsilon)
        gamma = rate(t) if callable(rate) else rate
        z = z - gamma * (way + decay * y)
        weight = weight + gamma**2
        c = gamma**2 / weight
        x = (1 - c) * x + c * z
        return (1 - beta) * z + beta * x - y, (z, x, v, weight)

    return arraywise(formula)


def clip_by_value(limit):
    return arraywise(lambda t, g, p, m: (np.minimum(np.maximum(g, -limit), limit), None))


def clip_by_norm(limit):
    return arraywise(lambda t, g, p, m: (g * min(1, limit / norm(g)), None))


def clip_by_unit_norm(ratio, least):
    def formula(t, g, p, m):
        units = [(g, p)] if g.ndim < 2 else [(g[:, i], p[:, i]) for i in range(g.shape[1])]
        cut = [u * min(1, ratio * max(norm(w), least) / norm(u)) for u, w in units]
        return cut[0] if g.ndim < 2 else np.stack(cut, 1), None

    return arraywise(formula)


def clip_by_global_norm(limit):
    def paper(t, at, params, memory):
        grads = at(params)[1]
        length = np.sqrt(sum((g**2).sum() for g in grads))
        return [g * min(1, limit / length) for g in grads], None

    return paper


def sam(radius):
    def paper(t, at, params, memory):
        grads = at(params)[1]
        length = np.sqrt(sum((g**2).sum() for g in grads))
        return at([p + radius * g / length for p, g in zip(params, grads, strict=True)])[1], None

    return paper


def lookahead(every, share):
    def paper(t, at, params, slow):
        updates, slow = at(params)[1], slow or params
        if (t + 1) % every:
            return updates, slow
        fast = [p + u for p, u in zip(params, updates, strict=True)]
        slow = [s + share * (f - s) for s, f in zip(slow, fast, strict=True)]
        return [s - p for s, p in zip(slow, params, strict=True)], slow

    return paper


def accumulate(inner, steps):
    def paper(t, at, params, memory):
        seen, memory = memory or ([], None)
        seen = [*seen, at(params)[1]]
        if len(seen) < steps:
            return [np.zeros_like(p) for p in params], (seen, memory)
        mean = [sum(grads) / steps for grads in zip(*seen, strict=True)]
        updates, memory = inner(t // steps, lambda _: (None, mean), params, memory)
        return updates, ([], memory)

    return paper


def reduce_on_plateau(factor, patience, tolerance, window, cooldown, least):
    def paper(t, at, params, memory):
        value, grads = at(params)
        scale, best, bad, rest, losses = memory or (1.0, np.inf, 0, 0, [])
        losses = [*losses, value]
        if len(losses) == window:
            loss, losses = np.mean(losses), []
            improved = loss < (1 - tolerance) * best
            best = loss if improved else best
            if rest:
                rest, bad = rest - 1, 0
            else:
                bad = 0 if improved else bad + 1
                if bad == patience:
                    scale, bad, rest = max(scale * factor, least), 0, cooldown
        return [scale * g for g in grads], (scale, best, bad, rest, losses)

    return paper


def lbfgs(rate, memory_size):
    """Nocedal and Wright, algorithms 7.4 and 7.5, on all numbers in one row."""

    def paper(t, at, params, memory):
        p, g = row(params), row(at(params)[1])
        pairs, gamma, before = memory or ([], min(1, 1 / norm(g)), None)
        if before is not None:
            s, y = p - before[0], g - before[1]
            # A left-out pair takes a place too: the memory goes back in steps, not in pairs.
            pairs = [*pairs, (s, y) if s @ y > 0 else None][-memory_size:]
            gamma = s @ y / (y @ y) if s @ y > 0 else gamma
        q, alphas = g, []
        known = [pair for pair in pairs if pair is not None]
        for s, y in reversed(known):
            alphas.append(s @ q / (s @ y))
            q = q - alphas[-1] * y
        r = gamma * q
        for s, y in known:
            r = r + (alphas.pop() - y @ r / (s @ y)) * s
        return rows(-rate * r, params), (pairs, gamma, (p, g))

    return paper


def backtracking(inner, shrink, slope, trials):
    def paper(t, at, params, memory):
        value, grads = at(params)
        updates, memory = inner(t, at, params, memory)
        descent = sum((g * u).sum() for g, u in zip(grads, updates, strict=True))
        for trial in range(trials):
            length = shrink**trial
            there = [p + length * u for p, u in zip(params, updates, strict=True)]
            if at(there)[0] <= value + slope * length * descent:
                break
        return [length * u for u in updates], memory

    return paper


def sophia(rate, beta1, beta2, gamma, epsilon, decay, every, curvature):
    """With a Hessian that is diagonal, of which every draw of signs gives the diagonal."""

    def paper(t, at, params, memory):
        grads, means = at(params)[1], memory or [(0, 0)] * len(params)
        new, updates = [], []
        for g, p, h, (m, mean_h) in zip(grads, params, curvature(params), means, strict=True):
            m = beta1 * m + (1 - beta1) * g
            if t % every == 0:
                mean_h = beta2 * mean_h + (1 - beta2) * h
            ratio = m / np.maximum(gamma * mean_h, epsilon)
            updates.append(-rate * (np.minimum(np.maximum(ratio, -1), 1) + decay * p))
            new.append((m, mean_h))
        return updates, new

    return paper


def chain(*papers):
    def paper(t, at, params, memory):
        memory, new = memory or [None] * len(papers), []
        for one, own in zip(papers, memory, strict=True):
            updates, own = one(t, at, params, own)
            new.append(own)
            # What comes next sees, at any parameters, what this one makes of the gradient there.
            at = given(one, t, at, memory[len(new) - 1])
        return updates, new

    return paper


def given(paper, t, at, memory):
    return lambda params: (at(params)[0], paper(t, at, params, memory)[0])


def by_array(chosen, one, other):
    """Split the arrays between two papers, by their number and looks."""

    def paper(t, at, params, memory):
        mine = [chosen(i, p) for i, p in enumerate(params)]
        grads, updates, new = at(params)[1], list(params), []
        for part, (inner, own) in enumerate(zip((one, other), memory or [None] * 2, strict=True)):
            places = [i for i, m in enumerate(mine) if m != bool(part)]
            some, own = inner(
                t, lambda _, at=places: (None, [grads[i] for i in at]), [params[i] for i in places],
                own,
            )  # fmt: skip
            new.append(own)
            for i, update in zip(places, some, strict=True):
                updates[i] = update
        return updates, new

    return paper


def unstacked(place, inner):
    """Hand a paper the rows of one array as arrays."""

    def cut(arrays):
        return [*arrays[:place], *arrays[place], *arrays[place + 1 :]]

    def paper(t, at, params, memory):
        end = place + len(params[place])

        def joined(arrays):
            return [*arrays[:place], np.stack(arrays[place:end]), *arrays[end:]]

        def at_rows(rows):
            value, grads = at(joined(rows))
            return value, cut(grads)

        updates, memory = inner(t, at_rows, cut(params), memory)
        return joined(updates), memory

    return paper


def norm(a):
    return np.sqrt((a**2).sum())


def rms(a):
    return np.sqrt((a**2).mean())


def row(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def rows(values, like):
    ends = np.cumsum([a.size for a in like])
    return [values[e - a.size : e].reshape(a.shape) for e, a in zip(ends, like, strict=True)]
