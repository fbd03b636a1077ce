"""Operations and hardware -> time, with provenance. `model.build_cost` is the way in.

    store       tables on disk: read, list, show          checks      no entry faster than physics
    priced      a number of nanoseconds and its source    roofline    FLOP, bytes and lower bounds
    gemm, attention, collective, elementwise              one family each: how it is interpolated
    compile     one (model, split, device) into dense lists       model   the cost model made of them
    host        the engine profile: host time, CUDA-graph sizes, default limits
    importers   one source of tables per file
"""
