"""Device families that porter compiles for, one folder each."""
