"""The laboratory: several replicas, real stores, and faults that a seed draws."""
