"""Students: the networks that answer at query time, and their export to ONNX."""
