"""For tests of simserve and of parts written elsewhere: a toy cost model, builders, and `conformance.check_scheduler`."""
