"""A recipe on verl's engine: its workers train, its servers sample, on as many GPUs and machines as Ray has.

The loop, collector, hooks, prompting, grading, metrics, evaluations and run directory are those of `srft train`, in
this process; verl gets token ids and gives log-probs, gradients and samples.

    support.py     which recipes it can carry out; the others are refused by name
    config.py      the recipe as verl's configuration
    cluster.py     verl's worker group and servers, started and driven
    worker.py      what runs in each of its training processes beside verl's own
    batch.py       responses as verl's batch, and its outputs back per response
    loss.py        the method as the loss function of its workers
    policy.py      the sharded policy, as the loop and the samplers see it
    sampler.py     its servers as a sampler
    updater.py     an optimizer update by its workers
    train.py       from a recipe to a run directory
"""
