"""The policy: the one door to a model. Loading, dtype and device, its inputs in micro-batches, its log-probs and
entropy, saving it, and the weights that a sampler takes."""
