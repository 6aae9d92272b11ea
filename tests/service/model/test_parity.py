"""The research and production forms, against vectors of the public code and against plain loops."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.parity import check, main
from tests.service.model import plain_vectors as plain

OUTSIDE = Path(__file__).parents[4]
VECTORS = OUTSIDE / "shared" / "vectors"
PUBLIC = sorted(VECTORS.glob("*.npz"))

Arrays = dict[str, Any]


def ends(lengths: tuple[int, ...]) -> np.ndarray:
    return np.array([0, *np.cumsum(lengths)])


def sizes(make: np.random.Generator, lengths: tuple[int, ...], layers: int) -> Arrays:
    total = sum(lengths)
    return {
        "format_version": np.int64(1), "N": np.int64(5), "num_layers": np.int64(layers),
        "num_heads": np.int64(2), "dqk": np.int64(1), "dv": np.int64(2), "offsets": ends(lengths),
        "input_norm_eps": np.float64(1e-6), "attention_norm_eps": np.float64(1e-6),
        "input": make.normal(size=(total, 3)), "fixed_random": make.normal(size=(total, 3)),
    }  # fmt: skip


def research_weights(make: np.random.Generator, layers: int, biased: bool) -> Arrays:
    shapes = {"uvqk_weight": (3, 12), "output_weight": (3, 4), "output_bias": (3,)}
    if biased:
        shapes |= {"position_bias": (9,), "time_bias": (129,)}
    return {
        f"layer{i}_{name}": make.normal(size=shape)
        for i in range(layers) for name, shape in shapes.items()
    }  # fmt: skip


def research(lengths: tuple[int, ...], layers: int, biased: bool, seed: int) -> Arrays:
    make = np.random.default_rng(seed)
    weights = research_weights(make, layers, biased)
    a = sizes(make, lengths, layers) | weights
    if biased:
        a["timestamps"] = make.integers(10**8, 10**8 + 10 ** make.integers(1, 8), (len(lengths), 5))
    return plain.with_gradients(a, plain.research_layers, ["input", *weights])


def research_path() -> Arrays:
    make, lengths = np.random.default_rng(3), (4, 0, 1)
    a = sizes(make, lengths, 1) | research_weights(make, 1, True)
    del a["input"], a["fixed_random"]
    items = make.normal(size=(7, 3))
    items[0] = 0
    ids = np.zeros((3, 5), np.int64)
    for b, length in enumerate(lengths):
        ids[b, : length + 1] = make.integers(1, 7, length + 1)
    positive = np.concatenate([ids[b, 1 : n + 1] for b, n in enumerate(lengths)])
    negative = make.integers(1, 7, (len(positive), 3))
    negative[0, 1] = positive[0]
    negative[1, :2] = negative[1, 2]
    a |= {
        "item_embedding": items, "position_embedding": make.normal(size=(5, 3)), "item_ids": ids,
        "positive_ids": positive, "negative_ids": negative, "temperature": np.float64(0.05),
        "hit_logit": np.float64(-50000), "timestamps": make.integers(10**8, 2 * 10**8, (3, 5)),
    }  # fmt: skip
    leaves = [name for name in a if name.endswith(("_embedding", "_weight", "_bias"))]
    return plain.with_gradients(a, plain.research_path, leaves)


def production(seed: int) -> Arrays:
    make, lengths = np.random.default_rng(seed), (4, 1, 0, 3)
    a = sizes(make, lengths, 2) | {"num_targets": np.array([2, 1, 0, 0])}
    a["alpha"] = np.float64(1.0)
    shapes = {
        "uvqk_weight": (3, 12), "uvqk_bias": (12,), "output_weight": (12, 3),
        "input_norm_weight": (3,), "input_norm_bias": (3,),
        "attention_norm_weight": (4,), "attention_norm_bias": (4,),
    }  # fmt: skip
    weights = {
        f"layer{i}_{name}": make.normal(size=shape)
        for i in range(2) for name, shape in shapes.items()
    }  # fmt: skip
    return plain.with_gradients(a | weights, plain.production_layers, ["input", *weights])


def production_attention() -> Arrays:
    make, lengths = np.random.default_rng(9), (5, 0, 2, 1)
    a = {
        "offsets": ends(lengths), "num_targets": np.array([2, 0, 2, 0]), "N": np.int64(7),
        "alpha": np.float64(3**-0.5), "q": make.normal(size=(8, 2, 3)),
        "k": make.normal(size=(8, 2, 3)), "v": make.normal(size=(8, 2, 2)),
        "fixed_random": make.normal(size=(8, 2, 2)),
    }  # fmt: skip
    return plain.with_gradients(a, plain.production_attention, ["q", "k", "v"])


CASES: dict[str, Callable[[], Arrays]] = {
    "research, one layer, empty and full": lambda: research((0, 5, 2), 1, True, 1),
    "research, two layers, no bias": lambda: research((3, 0, 1), 2, False, 2),
    "research path": research_path,
    "production, two layers, targets": lambda: production(4),
    "production attention": production_attention,
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Arrays], Path]:
    """The arrays as a file whose name says nothing."""

    def write(arrays: Arrays) -> Path:
        path = tmp_path / "vectors.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_form_is_its_formula_with_every_gradient(
    case: Callable[[], Arrays], written: Callable[[Arrays], Path]
) -> None:
    arrays = case()
    told = {name for name in arrays if name.startswith("grad_")} | {"output", "loss"} & set(arrays)
    for result in check(written(arrays)):
        assert result.errors.keys() >= told
        assert not result.above, result


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.stem)
def test_the_public_codes_numbers_are_reproduced(file: Path) -> None:
    assert [result.above for result in check(file)] == [[], []]


def test_the_public_codes_numbers_are_at_hand() -> None:
    if not PUBLIC:
        pytest.skip(f"no test vectors of the public code in ../{VECTORS.relative_to(OUTSIDE)}")
    assert len(PUBLIC) >= 7


@pytest.mark.parametrize("name", ["output", "grad_k"])
def test_a_number_that_differs_is_named_and_gives_status_1(
    name: str, written: Callable[[Arrays], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = production_attention()
    path = written(arrays)
    assert main([str(path.parent), "--json"]) == 0
    arrays[name].flat[3] += 1e-8 * np.abs(arrays[name]).max()
    capsys.readouterr()
    assert main([str(written(arrays)), "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["dtype"], line["above"]) for line in told] == [
        ("float64", [name]),
        ("float32", []),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": None, "num_targets": None}, "holds none of the arrays q, num_targets"),
        ({"k": None}, "has no array 'k'"),
        ({"format_version": np.int64(2)}, "has format_version 2; 1 is known"),
        ({"attention_norm_eps": np.float64(1e-5)}, "attention_norm_eps is 1e-05, the model's is"),
        ({"grad_w": np.zeros(1)}, "holds gradients of what is unknown: grad_w"),
        ({"output": None}, "holds no output to compare with"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(
    change: Arrays, words: str, written: Callable[[Arrays], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arrays = {k: v for k, v in (production_attention() | change).items() if v is not None}
    assert main([str(written(arrays))]) == 1
    assert words in capsys.readouterr().err


def test_no_file_at_all_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "there is no .npz file in" in capsys.readouterr().err
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no archive")
    assert main([str(tmp_path)]) == 1
    assert "a.npz is no .npz file" in capsys.readouterr().err
