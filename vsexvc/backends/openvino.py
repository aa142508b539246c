"""Compile a part of a network as an OpenVINO model, for CPUs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vsexvc.backends.shapes import Part
from vsexvc.support.environment import environment
from vsexvc.support.threads import apart

# Otherwise openvino sends statistics to its makers from a separate process as soon as it is imported.
_SENDS_NOTHING = {"CI": "true"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenVINO's warnings and log messages on conversions, and its telemetry.

    These settings apply to the whole process: only one thread may be inside (see ByShape).
    """
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)  # or the first message would set logging up for the whole process
    try:
        with warnings.catch_warnings(), environment(**_SENDS_NOTHING):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)


def openvino_model(part: nn.Module, inputs: tuple[Tensor, ...], *, hints: dict[str, Any]) -> Part:
    """Return the part compiled for the shapes of these inputs. hints: properties of OpenVINO's CPU plugin."""
    example = tuple(x.detach().clone() for x in inputs)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        # openvino.convert_model would trace the part, and the memory of a trace is never freed.
        decoder = TorchFXPythonDecoder.from_exported_program(torch.export.export(part, example))
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
    # OpenVINO gives the calling thread a stack for signals and may free it before the thread ends.
    compiled = apart(openvino.Core().compile_model, model, "CPU", hints)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True, share_outputs=True)
        results = tuple(torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs)))
        return results if len(results) > 1 else results[0]

    return run
