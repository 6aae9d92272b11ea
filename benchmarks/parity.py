"""Whether the model computes what the public research code computes, to the last digits.

    python -m benchmarks.parity VECTORS...        # .npz files or directories of them

A file holds inputs, weights, outputs and gradients of layers in the research or the production
form, of production attention alone, or of the whole research path down to its loss; which of them,
its arrays say. Every output and gradient is computed here in float64 and in float32 and compared;
an error is the largest difference over the largest absolute value of the array. Status 1 if one is
above its tolerance: in float64 1e-9, in float32 (or where the file itself is float32) 1e-5 for
outputs and 1e-4 for gradients.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kernels.attention import Events, Rows
from kernels.attention.variants import research_time_bucket
from service.model.hstu import history_rows
from service.model.layer import EPS, FORMS, Form, KeysValues, Layer
from service.model.sequence import SequenceEncoder

DTYPES = (torch.float64, torch.float32)
EXACT, OUTPUTS, GRADIENTS = 1e-9, 1e-5, 1e-4
"""Tolerances: everything in float64; outputs and gradients in float32."""

Arrays = dict[str, np.ndarray]
Computed = dict[str, Tensor]


@dataclass(frozen=True)
class Result:
    """How far one file is reproduced in one number format."""

    file: str
    kind: str
    dtype: str
    errors: dict[str, float]
    """Of each output and each gradient (`grad_*`)."""
    tolerances: dict[str, float]

    @property
    def above(self) -> list[str]:
        """Names of the arrays that differ by more than their tolerance; NaN differs."""
        return [name for name, error in self.errors.items() if not error <= self.tolerances[name]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m benchmarks.parity`."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("paths", type=Path, nargs="+", metavar="VECTORS")
    options.add_argument("--json", action="store_true", help="one JSON object per file and format")
    chosen = options.parse_args(arguments)
    try:
        files = list(_files(chosen.paths))
        results = [result for file in files for result in check(file)]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for result in results:
        print(_json(result) if chosen.json else _text(result))
    return 1 if any(result.above for result in results) else 0


def check(file: Path) -> list[Result]:
    """Compute what a file holds, in both formats. Raises ValueError for a file of another kind."""
    try:
        with file.open("rb") as opened, np.load(opened) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except BadZipFile as error:
        raise ValueError(f"{file} is no .npz file: {error}") from None
    kind = _kind(file, arrays)
    return [_compared(file, kind, arrays, dtype) for dtype in DTYPES]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"there is no .npz file in {path}")
        yield from found


def _kind(file: Path, arrays: Arrays) -> str:
    marks = {
        "q": "production attention", "num_targets": "production layers",
        "item_embedding": "research path", "layer0_uvqk_weight": "research layers",
    }  # fmt: skip
    found = next((mark for mark in marks if mark in arrays), None)
    if found is None:
        raise ValueError(f"{file} holds none of the arrays {', '.join(marks)}: no test vectors")
    if (version := int(arrays.get("format_version", 1))) != 1:
        raise ValueError(f"{file} has format_version {version}; 1 is known")
    for name in ("input_norm_eps", "attention_norm_eps"):
        if name in arrays and arrays[name] != EPS:
            raise ValueError(f"{file}: {name} is {arrays[name]}, the model's is {EPS}")
    return marks[found]


def _compared(file: Path, kind: str, arrays: Arrays, dtype: torch.dtype) -> Result:
    try:
        computed = KINDS[kind](_Vectors(arrays, dtype))
    except KeyError as error:
        raise ValueError(f"{file} ({kind}) has no array {error}") from None
    if unknown := {name for name in arrays if name.startswith("grad_")} - set(computed):
        raise ValueError(f"{file} holds gradients of what is unknown: {', '.join(sorted(unknown))}")
    if not {"output", "loss"} & set(arrays):
        raise ValueError(f"{file} holds no output to compare with")
    known = {name: value for name, value in computed.items() if name in arrays}
    single = dtype == torch.float32 or any(arrays[name].dtype == np.float32 for name in known)
    errors = {name: _error(value, arrays[name]) for name, value in known.items()}
    tolerances = {name: _tolerance(name, single) for name in known}
    return Result(file.name, kind, str(dtype).removeprefix("torch."), errors, tolerances)


def _error(found: Tensor, expected: np.ndarray) -> float:
    """Largest difference over the largest absolute value; absolute where all are zero."""
    if found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found.detach().numpy().astype(np.float64) - expected)
    largest = np.abs(expected).max(initial=0.0)
    return float(difference.max(initial=0.0) / (largest or 1.0))


def _tolerance(name: str, single: bool) -> float:
    if not single:
        return EXACT
    return GRADIENTS if name.startswith("grad_") else OUTPUTS


class _Vectors:
    """The arrays of a file, as tensors of one floating type."""

    def __init__(self, arrays: Arrays, dtype: torch.dtype) -> None:
        self.arrays, self.dtype = arrays, dtype
        self.offsets = self["offsets"]
        self.lengths_B = self.offsets.diff()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        found = torch.from_numpy(np.array(self.arrays[name]))
        return found.to(self.dtype) if found.is_floating_point() else found.long()

    def size(self, name: str) -> int:
        return int(self.arrays[name])

    def histories(self) -> tuple[Rows, Events]:
        """Every row of the file as a history row: it asks at the time of the event after it, or at
        its own where no place is left for that."""
        user_T = torch.repeat_interleave(self.lengths_B)
        if "timestamps" not in self:
            events = Events(self.offsets, torch.zeros_like(user_T))
            return history_rows(events), events
        at_ms = 1000 * self["timestamps"]
        position_T = history_rows(Events(self.offsets, user_T)).position
        events = Events(self.offsets, at_ms[user_T, position_T])
        next_T = at_ms[user_T, (position_T + 1).clamp(max=self.size("N") - 1)]
        return replace(history_rows(events), at_ms=next_T), events


class _Weights:
    """Where each array of a file went in a model, and its gradient in the form of the file."""

    def __init__(self, vectors: _Vectors) -> None:
        self._vectors = vectors
        self._grads: dict[str, Callable[[], Tensor]] = {}

    def leaf(self, name: str) -> Tensor:
        """The array itself, to be differentiated."""
        leaf = self._vectors[name].requires_grad_()
        self._grads[name] = lambda: _grad(leaf)
        return leaf

    def put(
        self, name: str, parameter: Tensor | None, order: Tensor | None = None, turned: bool = False
    ) -> None:
        """Copy an array into a parameter, its columns in `order` and transposed if `turned`."""
        if parameter is None:
            return
        value = self._vectors[name]
        order = torch.arange(value.shape[-1]) if order is None else order
        with torch.no_grad():
            parameter.copy_(value[..., order].T if turned else value[..., order])

        def grad() -> Tensor:
            found = _grad(parameter)
            back: Tensor = (found.T if turned else found)[..., order.argsort()]
            return back

        self._grads[name] = grad

    def gradients(self) -> Computed:
        """By their names in the file."""
        return {f"grad_{name}": grad() for name, grad in self._grads.items()}


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class _Told(Layer):
    """A layer that remembers what its rows attended to and what it gave."""

    attended: Tensor
    gave: Tensor

    def attend(
        self, q_RHK: Tensor, seen: KeysValues, rows: Rows, events: Events,
        own: KeysValues | None = None,
    ) -> Tensor:  # fmt: skip
        self.attended = super().attend(q_RHK, seen, rows, events, own)
        return self.attended

    def history(self, x_TD: Tensor, rows: Rows, events: Events) -> tuple[Tensor, KeysValues]:
        self.gave, seen = super().history(x_TD, rows, events)
        return self.gave, seen


def _layers(vectors: _Vectors, weights: _Weights, form: Form, dim: int) -> list[_Told]:
    sizes = [vectors.size(name) for name in ("num_heads", "dqk", "dv", "N")]
    layers = []
    for i in range(vectors.size("num_layers")):
        layer = _Told(form, dim, *sizes).to(vectors.dtype)
        name = f"layer{i}_"
        order, research = _columns(*sizes[:3]), form.output == "gated"
        weights.put(f"{name}uvqk_weight", layer.project.weight, order, turned=True)
        weights.put(f"{name}output_weight", layer.output.weight, turned=not research)
        if research:
            weights.put(f"{name}output_bias", layer.output.bias)
            weights.put(f"{name}position_bias", layer.distance_bias)
            weights.put(f"{name}time_bias", layer.time_bias)
        else:
            weights.put(f"{name}uvqk_bias", layer.project.bias, order)
            for norm, of in ((layer.before, "input"), (layer.after, "attention")):
                weights.put(f"{name}{of}_norm_weight", norm.weight)
                weights.put(f"{name}{of}_norm_bias", norm.bias)
        layers.append(layer)
    return layers


def _columns(heads: int, qk_width: int, v_width: int) -> Tensor:
    """The file's columns u, v, q, k in the order of a layer's projection: u, q, k, v."""
    wide, narrow = heads * v_width, heads * qk_width
    u, v, q, k = torch.arange(2 * wide + 2 * narrow).split([wide, wide, narrow, narrow])
    return torch.cat([u, q, k, v])


def _research_form(vectors: _Vectors) -> Form:
    biased = "layer0_position_bias" in vectors
    return FORMS["research"] if biased else replace(FORMS["research"], bias=None)


def _told(layers: Sequence[_Told]) -> Computed:
    return {
        f"layer{i}_{name}": value
        for i, layer in enumerate(layers)
        for name, value in (("attention", layer.attended.flatten(1)), ("output", layer.gave))
    }


def _buckets(vectors: _Vectors, rows: Rows, events: Events) -> Tensor:
    """Bucket of every row and every event it sees, -1 elsewhere: [B, N, N]."""
    most = vectors.size("N")
    found = torch.full((len(vectors.lengths_B), most, most), -1)
    for b, n in enumerate(vectors.lengths_B.tolist()):
        own = slice(int(vectors.offsets[b]), int(vectors.offsets[b]) + n)
        buckets = research_time_bucket(rows.at_ms[own, None] - events.at_ms[own])
        found[b, :n, :n] = torch.where(torch.ones(n, n).tril() > 0, buckets, -1)
    return found


def _research_layers(vectors: _Vectors) -> Computed:
    weights = _Weights(vectors)
    x_TD = weights.leaf("input")
    layers = _layers(vectors, weights, _research_form(vectors), x_TD.shape[1])
    rows, events = vectors.histories()
    out_TD = x_TD
    for layer in layers:
        out_TD, _ = layer.history(out_TD, rows, events)
    (out_TD * vectors["fixed_random"]).sum().backward()
    buckets = {"time_bucket": _buckets(vectors, rows, events)}
    return {"output": out_TD, **_told(layers), **buckets, **weights.gradients()}


def _research_path(vectors: _Vectors) -> Computed:
    weights = _Weights(vectors)
    items, dim = vectors["item_embedding"].shape
    layers = _layers(vectors, weights, _research_form(vectors), dim)
    encoder = SequenceEncoder(
        items - 1, dim, 0, vectors.size("num_heads"), vectors.size("dqk"), vectors.size("dv"),
        vectors.size("N"), _research_form(vectors),
    ).to(vectors.dtype)  # fmt: skip
    encoder.layers.extend(layers)
    weights.put("item_embedding", encoder.items.weight)
    weights.put("position_embedding", encoder.positions)
    rows, events = vectors.histories()
    user_T = torch.repeat_interleave(vectors.lengths_B)
    item_T = vectors["item_ids"][user_T, rows.position]
    users_TD = encoder(item_T, vectors.offsets, rows.at_ms, events.at_ms)
    loss = _sampled_softmax(vectors, users_TD, encoder.item_vectors())
    loss.backward()
    return {"loss": loss, "user_output": users_TD, **_told(layers), **weights.gradients()}


def _sampled_softmax(vectors: _Vectors, users_TD: Tensor, items_ID: Tensor) -> Tensor:
    """Mean over all rows; a negative that is the row's positive gets a logit of its own."""
    positive_T1, negative_TC = vectors["positive_ids"][:, None], vectors["negative_ids"]
    asked_TC = torch.cat([positive_T1, negative_TC], dim=1)
    logits_TC = (items_ID[asked_TC] @ users_TD[..., None])[..., 0] / vectors["temperature"]
    hit_TC = torch.cat([torch.zeros_like(positive_T1) > 0, negative_TC == positive_T1], dim=1)
    logits_TC = torch.where(hit_TC, vectors["hit_logit"], logits_TC)
    return cross_entropy(logits_TC, torch.zeros(len(logits_TC), dtype=torch.int64))


def _production_layers(vectors: _Vectors) -> Computed:
    weights = _Weights(vectors)
    x_TD = weights.leaf("input")
    layers = _layers(vectors, weights, FORMS["production"], x_TD.shape[1])
    split = _Split(vectors)
    history_TD, targets_RD = x_TD[split.history], x_TD[split.targets]
    for layer in layers:
        after_TD, seen = layer.history(history_TD, split.history_rows, split.events)
        targets_RD = layer.target(targets_RD, split.target_rows, split.events, seen)
        history_TD = after_TD
    out_TD = split.joined(history_TD, targets_RD)
    (out_TD * vectors["fixed_random"]).sum().backward()
    return {"output": out_TD, **weights.gradients()}


def _production_attention(vectors: _Vectors) -> Computed:
    weights = _Weights(vectors)
    q, k, v = (weights.leaf(name) for name in "qkv")
    _, heads, qk_width = q.shape
    layer = Layer(
        FORMS["production"], 4, heads, qk_width, v.shape[2], vectors.size("N")
    ).to(vectors.dtype)  # fmt: skip
    split = _Split(vectors)
    seen, own = (KeysValues(k[at], v[at]) for at in (split.history, split.targets))
    out = split.joined(
        layer.attend(q[split.history], seen, split.history_rows, split.events),
        layer.attend(q[split.targets], seen, split.target_rows, split.events, own),
    )
    (out * vectors["fixed_random"]).sum().backward()
    return {"output": out, **weights.gradients()}


class _Split:
    """Sequences whose last rows are targets, taken apart into histories and rows that ask."""

    def __init__(self, vectors: _Vectors) -> None:
        targets_B = vectors["num_targets"]
        held_B = vectors.lengths_B - targets_B
        user_T = torch.repeat_interleave(vectors.lengths_B)
        position_T = history_rows(Events(vectors.offsets, user_T)).position
        asks_T = position_T >= held_B[user_T]
        self.history, self.targets = (~asks_T).nonzero()[:, 0], asks_T.nonzero()[:, 0]
        self.events = Events(_ends(held_B), torch.zeros_like(self.history))
        self.history_rows = history_rows(self.events)
        limit_R = held_B[user_T[self.targets]]
        self.target_rows = Rows(_ends(targets_B), limit_R, limit_R, torch.zeros_like(limit_R))

    def joined(self, history: Tensor, targets: Tensor) -> Tensor:
        """Both in the order of the file."""
        back = torch.cat([self.history, self.targets]).argsort()
        return torch.cat([history, targets])[back]


def _ends(counts_B: Tensor) -> Tensor:
    return torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])


KINDS: dict[str, Callable[[_Vectors], Computed]] = {
    "research layers": _research_layers,
    "research path": _research_path,
    "production layers": _production_layers,
    "production attention": _production_attention,
}


def _json(result: Result) -> str:
    return json.dumps({**asdict(result), "above": result.above})


def _text(result: Result) -> str:
    outputs = [name for name in result.errors if not name.startswith("grad_")]
    gradients = [name for name in result.errors if name.startswith("grad_")]
    lines = [f"{result.file} ({result.kind}), {result.dtype}"]
    largest = max((result.errors[name] for name in outputs), default=0.0)
    lines.append(f"  {'outputs':36} {largest:8.1e}")
    lines += [f"  {name:36} {result.errors[name]:8.1e}" for name in gradients]
    lines += [f"  {name} IS ABOVE {result.tolerances[name]:.0e}" for name in result.above]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
