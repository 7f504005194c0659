"""Restate's example of event processing in Python and JavaScript: an object keyed by user, three durable steps."""
