"""Sweeps: a claim's cells over a grid, computed, judged and stored."""
