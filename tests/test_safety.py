"""Nothing in the program runs what it reads: no pickle, no eval, no shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "service", "trainer", "serving", "benchmarks", ".ci")
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "_pickle"}
CALLS = {
    "eval", "exec", "__import__", "builtins.eval", "builtins.exec", "torch.load", "torch.save",
    "torch.package", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle", "subprocess.getoutput",
    "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
}  # fmt: skip


def dangers(source: str) -> list[str]:
    """What in a module would run, or unpickle, what somebody wrote."""
    return sorted({f"{node.lineno}: {what}" for node in ast.walk(ast.parse(source))
                   for what in _found(node)})  # fmt: skip


def _found(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if one.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module:
        if node.module.split(".")[0] in MODULES:
            yield node.module
        yield from (name for one in node.names if (name := f"{node.module}.{one.name}") in CALLS)
    elif isinstance(node, ast.Call):
        if (name := _dotted(node.func)) in CALLS:
            yield name
        yield from (
            f"{keyword.arg}={ast.unparse(keyword.value)}"
            for keyword in node.keywords
            if keyword.arg in ("allow_pickle", "shell")
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
        )


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_runs_or_unpickles_what_it_reads(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): dangers(file.read_text()) for file in files}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "import marshal",
        "import torch\ntorch.load(path)", "from torch import load", "torch.save(x, path)",
        "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=chosen)",
        "yaml.load(text)", "eval(text)", "exec(text)", "__import__(name)",
        "subprocess.run(text, shell=True)", "os.system(text)", "from os import system",
        "def f():\n    import shelve",
    ],
)  # fmt: skip
def test_every_danger_is_seen(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "np.load(path, allow_pickle=False)", "subprocess.run([a, b])",
     "yaml.safe_load(text)", "import json", "safetensors.torch.load(data)"],
)  # fmt: skip
def test_what_only_looks_like_one_is_not(source: str) -> None:
    assert not dangers(source)
