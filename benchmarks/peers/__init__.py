"""Other simulators, for playing the same work beside simserve; none of them is a dependency."""
