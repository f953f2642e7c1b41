//! Authentication and authorization: users, their passwords, access rules (ACLs).
//!
//! In: the configuration, changes by clients, questions of the handlers. Out: principals, credentials, decisions. Touches
//! one file ([`store`]).

/// Access rules and how they are looked up.
pub(crate) mod acl;
/// Salted passwords and their exchange.
pub(crate) mod scram;
/// Rules and salted passwords on disk.
mod store;
/// What is in force.
mod control;
/// The server's side of SASL on one connection.
pub(crate) mod login;
/// What is fuzzed.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

pub(crate) use acl::Operation;
pub(crate) use control::{Access, Principal, Resource, refused, say};
