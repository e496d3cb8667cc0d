"""What lives longer than a request: the agents known, and the context of the working folder."""
