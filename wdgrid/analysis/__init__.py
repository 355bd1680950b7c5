"""From the tidy table to numbers: is the space separable, and what is this setting called elsewhere?

Knows pandas, numpy and the definitions each docstring names. Knows nothing of storage, training or drawing.
"""
