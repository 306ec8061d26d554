"""From the aligned teacher to a causal few-step student."""
