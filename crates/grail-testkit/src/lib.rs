//! Fakes, contract suites and faults for tests; a development dependency only.
