"""For tests of simserve and of parts written elsewhere: a toy cost model, builders, `check_scheduler`."""
