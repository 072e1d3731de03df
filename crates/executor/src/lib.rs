//! The one writer: inputs to the scheduler, commit, then effects.
