"""Kernels: which nodes become one, and how each is tiled."""
