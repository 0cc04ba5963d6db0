"""Checkpoints as folders that others can load: ONNX without torch, or safetensors; with a model card."""
