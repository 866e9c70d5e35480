//! Reinforcement-learning environments: a problem from a seed, its prompt, parser and reward.
