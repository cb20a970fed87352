"""Scales found by nvidia-modelopt, read into our schemes.

modelopt calibrates `nn.Module`s; `optcc.quant.view` shows a graph as one. What it finds (largest magnitudes, factors
for the channels of inputs, weights it changed) is read back by name and packed by us: none of its modules is ever
exported.
"""
