"""Trained networks for other runtimes: an exported graph (`.pt2`) and ONNX, of any batch, height and width.

graph.py       what goes in and comes out, alike for both formats
metadata.py    what a file says of itself
pt2.py         torch.export
onnx.py        ONNX, compared with the network on onnxruntime before it is written
"""
