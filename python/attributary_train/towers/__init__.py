"""Packaged image and text encoders as they come, their features and their way to ONNX: the ground floor."""
