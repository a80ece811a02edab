"""Robots, physics worlds and tasks: everything that is simulated."""
