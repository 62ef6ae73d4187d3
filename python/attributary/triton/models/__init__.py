"""What runs inside Triton's Python backend. Needs NumPy, ONNX Runtime, FAISS and the kernels; nothing of gRPC."""
