"""Compute a network: precision, memory layout, OpenVINO, TensorRT, CUDA graphs."""
