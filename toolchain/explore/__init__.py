"""The page of a running model: from the bytes of a file to the next character, in a browser and without a network."""
