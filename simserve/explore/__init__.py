"""From a study to the deployment to run: feasibility, analytic screen, simulation of the promising part.

    space -> feasible -> screen -> runner (Optuna) -> evaluate (simulation) -> pareto -> result

The only package that imports optuna, and it does so when a search starts, not when it is imported.
"""
