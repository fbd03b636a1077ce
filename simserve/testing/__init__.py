"""For tests of simserve and of parts that others write: a toy cost model, builders, laws, the oracle check."""
