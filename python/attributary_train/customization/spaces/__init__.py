"""Feature spaces: what a picture is turned into before it is compared."""
