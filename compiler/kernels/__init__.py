"""Kernels: one module per kind of operation, with `lower(context, op)`; `compiler.emit` lists them."""
