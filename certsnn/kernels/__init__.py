"""Loops over time, element by element, that every forward pass and every bound runs.

Each stands twice: in torch (`reference`), for every device and dtype, and compiled for the CPU by numba
(`fused`), which reads and writes memory once. Both do the same floating-point operations in the same order,
so they return the same numbers, bit for bit but for the sign of a zero: which one runs is a matter of speed.
`choice.kernels` says which.
"""
