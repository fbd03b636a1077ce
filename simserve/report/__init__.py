"""How a result is shown and kept: terminal tables, JSON, CSV, a Pareto plot, launch commands."""
