"""What is right: models and oracles that a target's observations are compared with."""
