"""The projects, a file each: how inputs are made, what the real thing answers, which mistakes people make."""
