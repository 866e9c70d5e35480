//! The model provider: weights, tokenizer, chat template, exact inference and training.
