"""Load torch with OpenMP threads that sleep while they wait. Import this before anything that imports torch.

Torch's CPU loops end at barriers. The OpenMP runtime lets the threads that arrive first spin there for milliseconds. On
a machine that is busy (an encoder beside the filter) they take the cores from the thread that they wait for, and a
frame costs many times its share. The runtime reads its policy from the environment once, when it is loaded: so the
variable is set for that moment. A value that the user has set wins, and a torch that is loaded already stays as it is.
"""

from __future__ import annotations

import sys

from vsexvc.support.environment import environment, passive

# Somebody else has loaded torch, and nobody has said how its threads wait.
MAY_SPIN = "torch" in sys.modules and bool(passive())

with environment(**passive()):
    import torch  # noqa: F401
