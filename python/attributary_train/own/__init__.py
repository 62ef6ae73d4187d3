"""One road: from a folder of pictures, and a checkpoint if there is one, to a verified bundle and a page about it."""
