"""How a network is computed: precision, memory layout, OpenVINO, TensorRT, CUDA graphs."""
