"""`make bench`: this project beside its peers and the bare limit, on the same records and the same downstream."""
