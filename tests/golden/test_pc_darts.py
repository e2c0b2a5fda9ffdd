"""PC-DARTS' edge weights and partial channels against the authors' numbers, in float64."""
