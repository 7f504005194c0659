"""The objects in the API server: names, and the four kinds of `enrichment.dev/v1alpha1` as frozen values. Pure."""

#: Errors that a kind's `from_body` raises for an object that this version does not understand: a newer version may have
#: written it.
NOT_UNDERSTOOD = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
