"""Quantization: schemes turned into packed weights, shared by passes, backends and tests."""
