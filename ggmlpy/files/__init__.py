"""What every file needs, whatever is in it: errors, atomic writing, mapping, kinds of files, paths, checksums."""
