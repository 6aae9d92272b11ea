"""For all tests: one torch thread, as trainer and server run it beside other processes."""

import torch

torch.set_num_threads(1)
