"""Training in mini-batches: steps and seconds to the loss that the best tuned peer ends with.

``python -m examples.benchmarks.minibatch`` runs it; ``--help`` lists what can be chosen.
"""
