"""Whether predicted chances are the rates that are observed, also where most negatives are left
out of training: simulated lists and clicks with known chances, learned by the trainer's code."""
