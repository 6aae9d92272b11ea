"""Test vectors computed from the published formulas, one number at a time.

Nothing here is shared with the model: loops over numpy arrays for the outputs, and gradients by
complex steps (Squire and Trapp, SIAM Review 1998): the derivative is the imaginary part of the
result at an input with a tiny imaginary part, exact to rounding.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Arrays = dict[str, Any]
STEP = 1e-30
EPS = 1e-6


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def normed(row: np.ndarray) -> np.ndarray:
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return np.array([(x - mean) / np.sqrt(variance + EPS) for x in row])


def times(matrix: np.ndarray, row: np.ndarray) -> np.ndarray:
    """row @ matrix."""
    return np.array(
        [sum(row[i] * matrix[i, j] for i in range(len(row))) for j in range(matrix.shape[1])]
    )


def bucket(seconds: int) -> int:
    return min(int(math.log(max(1, abs(seconds))) / 0.301), 128)


def research_bias(a: Arrays, layer: int, b: int, i: int, j: int) -> Any:
    if f"layer{layer}_position_bias" not in a:
        return 0.0
    n, at = int(a["N"]), a["timestamps"][b]
    asked = at[i + 1] if i + 1 < n else at[i]
    return (
        a[f"layer{layer}_position_bias"][n - 1 - (i - j)]
        + a[f"layer{layer}_time_bias"][bucket(int(asked) - int(at[j]))]
    )


def attended(
    q: Any, k: Any, v: Any, i: int, seen: Sequence[int], logit: Callable[..., Any], n: int
) -> Any:
    """Row i of a sequence: [H, V] from [rows, H, K] and [rows, H, V]."""
    out = np.zeros(v.shape[1:], np.complex128)
    for h in range(v.shape[1]):
        for j in seen:
            dot = sum(q[i, h, c] * k[j, h, c] for c in range(q.shape[2]))
            out[h] += silu(logit(dot, j)) / n * v[j, h]
    return out


def spans(a: Arrays) -> list[range]:
    ends = [int(end) for end in a["offsets"]]
    return [range(first, last) for first, last in pairwise(ends)]


def split(a: Arrays, columns: np.ndarray) -> list[np.ndarray]:
    """u, v, q, k: [rows, H, width] each."""
    heads, qk, v = (int(a[name]) for name in ("num_heads", "dqk", "dv"))
    ends = np.cumsum([heads * v, heads * v, heads * qk])
    return [part.reshape(len(columns), heads, -1) for part in np.split(columns, ends, axis=1)]


def research_layer(a: Arrays, layer: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Attention [T, H * dv] and output [T, D]."""
    weight = a[f"layer{layer}_uvqk_weight"]
    columns = np.array([silu(times(weight, normed(row))) for row in x]).reshape(len(x), -1)
    u, v, q, k = split(a, columns)
    attention, out = np.zeros((len(x), u[0].size), np.complex128), x.astype(np.complex128)
    for b, rows in enumerate(spans(a)):
        own = slice(rows.start, rows.stop)
        for i, t in enumerate(rows):

            def logit(dot: Any, j: int, b: int = b, i: int = i) -> Any:
                return dot + research_bias(a, layer, b, i, j)

            attention[t] = attended(
                q[own], k[own], v[own], i, range(i + 1), logit, int(a["N"])
            ).ravel()
            z = u[t].ravel() * normed(attention[t])
            out[t] += times(a[f"layer{layer}_output_weight"].T, z) + a[f"layer{layer}_output_bias"]
    return attention, out


def research_layers(a: Arrays, x: np.ndarray | None = None) -> Arrays:
    x, told = a["input"] if x is None else x, {}
    for layer in range(int(a["num_layers"])):
        attention, x = research_layer(a, layer, x)
        told |= {f"layer{layer}_attention": attention, f"layer{layer}_output": x}
    return {"output": x, **told}


def unit(row: np.ndarray) -> np.ndarray:
    length = np.sqrt(sum(x * x for x in row))
    return row / (length if length.real > EPS else EPS)


def research_path(a: Arrays) -> Arrays:
    items, places = a["item_embedding"], a["position_embedding"]
    x = [
        items[a["item_ids"][b, p]] * math.sqrt(items.shape[1]) + places[p]
        for b, rows in enumerate(spans(a)) for p in range(len(rows))
    ]  # fmt: skip
    told = research_layers(a, np.array(x))
    users, loss = np.array([unit(row) for row in told.pop("output")]), 0.0
    for t, user in enumerate(users):
        positive = a["positive_ids"][t]
        logits = [sum(user * unit(items[positive])) / a["temperature"]]
        for item in a["negative_ids"][t]:
            hit = item == positive
            logits.append(
                a["hit_logit"] if hit else sum(user * unit(items[item])) / a["temperature"]
            )
        loss += np.log(sum(np.exp(x - logits[0]) for x in logits)) / len(users)
    return {"loss": loss, "user_output": users, **told}


def production_seen(a: Arrays, b: int, i: int) -> list[int]:
    history = len(spans(a)[b]) - int(a["num_targets"][b])
    return [*range(min(i, history)), i]


def production_rows(a: Arrays, q: Any, k: Any, v: Any) -> np.ndarray:
    out = np.zeros(v.shape, np.complex128)
    for b, rows in enumerate(spans(a)):
        own = slice(rows.start, rows.stop)
        for i, t in enumerate(rows):
            seen = production_seen(a, b, i)
            out[t] = attended(
                q[own], k[own], v[own], i, seen, lambda dot, _: a["alpha"] * dot, int(a["N"])
            )
    return out


def production_attention(a: Arrays) -> Arrays:
    return {"output": production_rows(a, a["q"], a["k"], a["v"])}


def production_layers(a: Arrays) -> Arrays:
    x = a["input"]
    for layer in range(int(a["num_layers"])):
        w = {name.removeprefix(f"layer{layer}_"): a[name] for name in a}
        columns = np.array([
            times(w["uvqk_weight"], normed(row) * w["input_norm_weight"] + w["input_norm_bias"])
            + w["uvqk_bias"]
            for row in x
        ])  # fmt: skip
        u, v, q, k = split(a, columns)
        attention = production_rows(a, q, k, v).reshape(len(x), -1)
        out = x.astype(np.complex128)
        for t in range(len(x)):
            gate = silu(u[t].ravel())
            scaled = normed(attention[t]) * w["attention_norm_weight"] + w["attention_norm_bias"]
            z = np.concatenate([gate, attention[t], gate * scaled])
            out[t] += times(w["output_weight"], z)
        x = out
    return {"output": x}


def with_gradients(a: Arrays, forward: Callable[[Arrays], Arrays], leaves: Sequence[str]) -> Arrays:
    """The arrays with their outputs, and the gradient of each leaf: of the loss if there is one,
    else of the sum of output * fixed_random."""
    outputs = forward(a)

    def value(changed: Arrays) -> Any:
        found = forward(a | changed)
        return found["loss"] if "loss" in found else np.sum(found["output"] * a["fixed_random"])

    grads = {}
    for name in leaves:
        grad = np.zeros(a[name].shape)
        for place in np.ndindex(grad.shape):
            moved = a[name].astype(np.complex128)
            moved[place] += 1j * STEP
            grad[place] = value({name: moved}).imag / STEP
        grads[f"grad_{name}"] = grad
    return {**a, **{name: np.real(x) for name, x in outputs.items()}, **grads}
