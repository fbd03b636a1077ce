"""`simserve ui`: a page on this machine to ask for a search, watch it and explore its result.

    guard      who may ask: this machine alone, no other site
    asking     from the fields of the form to a study, and what is wrong with it, by field
    searches   searches as processes of `simserve search`, their folders, their progress
    answers    a result as the page shows it
    server     the addresses
    static/    the page itself: no framework, nothing from elsewhere

A search writes what the command line writes, so everything that reads results reads these too.
"""
