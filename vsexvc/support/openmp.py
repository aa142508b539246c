"""Load torch with OpenMP threads that sleep while they wait. Import this before anything that imports torch.

Torch's CPU loops end at barriers. The OpenMP runtime lets the threads that arrive first spin there for milliseconds. On
a busy machine (an encoder runs too) they take the cores of the thread that they wait for, and a frame takes many times
as long. The runtime reads its policy from the environment once, when it is loaded, so the variable is set for that
time. A value that the user has set has priority. A torch that is already loaded keeps its policy.
"""

from __future__ import annotations

import sys

from vsexvc.support.environment import environment, passive

# Other code has loaded torch, and the user has not set how its threads wait.
MAY_SPIN = "torch" in sys.modules and bool(passive())

with environment(**passive()):
    import torch  # noqa: F401
