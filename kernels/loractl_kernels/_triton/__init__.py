"""The operations in Triton, for NVIDIA GPUs; imported by `loractl_kernels.ops` when it is asked for."""
