"""The parts of minislurm: a Slurm cluster in namespaces on one machine."""
