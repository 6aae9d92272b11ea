"""Rankings that are computed on a GPU: their numbers in Triton's interpreter (`placed_cases.py`),
where tensors go by fake CUDA ones, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from service.device import ON_CPU, chosen
from service.errors import SettingsError
from service.model.asking import Asked, Asker, Seen
from service.model.network import Network
from service.model.products import product
from serving.computing import computing
from serving.settings import ServingSettings

ROOT = Path(__file__).parents[3]
CUDA = torch.device("cuda", 0)


def test_in_the_interpreter_it_ranks_what_the_cpu_ranks() -> None:
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("placed_cases.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cases], cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_setting_is_refused_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"serving.device = 'cuda', .*no GPU; set it to \"cpu"):
        computing(ServingSettings(device="cuda"))


def test_the_cpu_computes_in_every_precision() -> None:
    assert chosen("cpu", "serving.device") == ON_CPU
    for dense in ("auto", "fp32", "bf16", "int8"):
        assert computing(ServingSettings(dense=dense)) == ON_CPU


def moved(asker: Asker, network: Network) -> None:
    """As if the asker had been made on the network's device; its tables are numbers of the host."""
    asker.network, asker._device = network, CUDA
    asker._layers = [
        weights._replace(
            project=product(layer.project, asker.precision),
            output=product(layer.output, asker.precision),
            own=layer.self_bias.detach(),
        )
        for weights, layer in zip(asker._layers, network.hstu._stack(), strict=True)
    ]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_no_tensor_is_on_the_wrong_device_and_answers_are_on_the_cpu(
    network_of, kind: torch.dtype
) -> None:
    """Fake tensors know devices and refuse to mix them."""
    network = network_of()
    asker, dim = Asker(network, kind), network.settings.dim
    seen = Seen(np.arange(8), np.zeros(8, np.int64), 1000 * np.arange(8), -1)
    few, nobody = (Seen(seen.item_T[:n], seen.action_T[:n], seen.at_ms_T[:n], -1) for n in (5, 0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        with CUDA:
            moved(asker, Network(network.settings, 5))
        kept = asker.read(few, torch.randn(5, dim, device=CUDA))
        kept = asker.read(seen, torch.randn(3, dim, device=CUDA), kept)
        nothing = asker.read(nobody, torch.randn(0, dim, device=CUDA))
        for one in (kept, nothing):
            assert {tensor.device for tensor in (*one.keys, *one.values)} == {CUDA}
            assert {tensor.dtype for tensor in (*one.keys, *one.values)} == {kind}
        asked = [
            Asked(kept, 10**6, torch.randn(4, dim, device=CUDA)),
            Asked(nothing, 10**6, torch.zeros(0, dim)),
        ]
        weighed = [torch.zeros(5, 8), torch.zeros(1, 0)]
        answers = asker.ask(asked, weighed)
    assert [list(answer.logits_CA.shape) for answer in answers] == [[4, 5], [0, 5]]
    for answer in answers:
        assert (answer.user_D.device.type, answer.logits_CA.device.type) == ("cpu", "cpu")
        assert answer.inputs_CD.device == CUDA
