"""What all tests share: one torch thread, so that results and times do not hang on the machine's cores."""

import torch

torch.set_num_threads(1)
