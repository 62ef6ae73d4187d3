"""Where drawings come from: one file a source, behind the protocol of `base`."""
