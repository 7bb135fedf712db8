"""Networks as someone would bring them: this package knows nothing of irstd but for the last class of `nets`."""
