//! A deterministic world for the control plane, and its judges.

pub mod check;
