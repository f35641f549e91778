//! Webhooks from end to end: real programs tell receivers on this machine, whatever dies; the official verifiers accept what they
//! send; and they send nothing to where it may not go.

mod addresses;
mod documents;
mod fairness;
mod faults;
mod hostile;
mod names;
mod official;
mod schedule;
mod verifiers;
