"""The Python API: the same questions as the command line, as functions with results that a notebook shows.

    study = simserve.load_study("quickstart")          # or a path, or a mapping with a study file's keys
    found = simserve.search(study)                     # what to run: found.recommended, .to_pandas(), .plot_pareto()
    run = found.simulate()                             # all that happened in it: run.metrics, .to_pandas(), .plot_...()
    simserve.simulate(study.change({"slo.ttft_ms": 300}))

Results are frozen. Names are public through `simserve` itself.
"""
