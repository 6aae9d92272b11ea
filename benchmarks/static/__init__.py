"""Leave-one-out tables on a fixed file of sequences: HSTU beside SASRec, in one harness."""
