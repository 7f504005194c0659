"""What the API server stores: names, and the four kinds of `enrichment.dev/v1alpha1` as frozen values. Pure."""
