"""The three stages of the `stream` family."""
