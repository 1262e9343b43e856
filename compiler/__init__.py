"""From a Program to a Plan for a machine: rewrites, decisions, and the list of passes."""
