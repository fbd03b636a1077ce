"""simserve: which deployment to run for serving an LLM, found by simulation on measured kernel times.

Reading guide, six files: this one, `spec/study`, `sim/plan`, `sim/instance`, `perf/model`, and one of
`systems/`.

    study.yaml -> spec -> hardware, model, perfdb -> cost model -> cluster (SimPy) -> trace -> metrics
                                                          ^---- search (screen, Optuna) ----|
"""

__version__ = "0.1.0"
