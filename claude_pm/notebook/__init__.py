"""The Jupyter face: the magics, and how they run a cell with top-level ``await``."""
