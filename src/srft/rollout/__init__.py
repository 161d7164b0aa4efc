"""Rollouts: samplers behind one interface, what a prompt's group is asked, and graded responses."""
