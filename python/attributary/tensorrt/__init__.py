"""TensorRT plans of a bundle's encoder, for Triton's TensorRT backend: `graph` needs no GPU, `engine` builds on one."""
