//! Webhooks: signing and verifying, the guard of addresses, one attempt at delivering, when to try again, and fairness
//! between receivers. No SQL and no queue: whoever keeps the deliveries asks this crate what to do and records the answer.
//!
//! A delivery, step by step: [`Fairness::try_acquire`] says whether its endpoint may be tried now;
//! [`Deliverer::attempt`] signs ([`Secrets::sign`]), vets the address ([`Guard`]) and sends; [`Attempt::verdict`] says what
//! the answer means; [`schedule::next_wait`] says when the next attempt is due. The clock is the caller's throughout,
//! which is the database's.

mod address;
mod answer;
mod attempt;
mod deliver;
mod exchange;
mod fairness;
mod guard;
mod headers;
mod message;
mod network;
mod policy;
mod port;
mod resolve;
pub mod schedule;
mod sealer;
mod secret;
mod signature;
mod tls;

pub use address::Special;
pub use answer::{Answer, BodyEnd, RetryAfter};
pub use attempt::{Attempt, Failed, Health, Step, Verdict};
pub use deliver::{Deliverer, Limits};
pub use fairness::{EndpointLimits, Fairness, NotNow, Others, Permit, Wait};
pub use guard::{Guard, Unvetted};
pub use headers::{ExtraHeader, RefusedHeader};
pub use message::{InvalidMessageId, Message, MessageId};
pub use network::{InvalidNetwork, Network};
pub use policy::{Policy, Refused, Target};
pub use resolve::{Resolve, SystemResolver};
pub use sealer::{InvalidKey, NotOurs, Sealer};
pub use secret::{InvalidSecret, Secret};
pub use signature::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Rejected, Secrets, Signed, TOLERANCE, verify};
pub use tls::{InvalidRoot, Tls};
