"""The command line: one file per chapter, and in it per command three functions: declare, call, print."""
