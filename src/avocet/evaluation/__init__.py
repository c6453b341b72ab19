"""Benchmarks and their reports: `benchmarks.theatre`, `runner`, `report`.

Nothing is imported here: the processes that stage clips import this package and must not pay for PyTorch.
"""
