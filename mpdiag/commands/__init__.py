"""Commands of the command line, one file per group; each calls a function of another package."""
