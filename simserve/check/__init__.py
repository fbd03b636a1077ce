"""What `simserve check` does: expectations of a study against its result, baselines, reports for machines."""
