"""The long tail: ONNX operations that no dialect fused, rewritten into kinds that work on any rank."""
