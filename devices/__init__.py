"""What a model costs and whether a board can carry it: sizes read from files, boards as .toml, one report."""
