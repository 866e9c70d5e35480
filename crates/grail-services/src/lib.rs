//! What each role does: mining, validation, training.
