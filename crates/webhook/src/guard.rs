//! The guard of addresses: the policy, applied to what a URL's host resolves to. Asked when a webhook is registered, and
//! again in every attempt, where the addresses it lets through are the only ones connected to.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use crate::{Policy, Refused, Resolve, SystemResolver, Target, policy::TargetHost};

/// A policy and a way to look names up. Cloning it is cheap.
#[derive(Clone)]
pub struct Guard {
    policy: Arc<Policy>,
    resolver: Arc<dyn Resolve>,
}

/// Why a URL has no vetted addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unvetted {
    /// The URL or one of its host's addresses is against the policy.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host has no address now, or the name servers did not answer. It may be another matter later.
    #[error("the host could not be resolved: {0}")]
    Unresolved(io::ErrorKind),
}

impl Guard {
    /// Guards by this policy, asking the operating system for addresses.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self::with_resolver(policy, Arc::new(SystemResolver::default()))
    }

    /// Guards by this policy, asking this resolver.
    #[must_use]
    pub fn with_resolver(policy: Policy, resolver: Arc<dyn Resolve>) -> Self {
        Self { policy: Arc::new(policy), resolver }
    }

    /// The rules that need no look-up.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Reads a URL and vets the addresses its host has now: what registering a webhook asks for. Takes as long as the
    /// resolver does.
    ///
    /// # Errors
    /// When the policy refuses it, or its host cannot be resolved.
    pub async fn vet(&self, url: &str) -> Result<Target, Unvetted> {
        let target = self.policy.vet_url(url)?;
        self.addresses(&target).await?;
        Ok(target)
    }

    /// Where to connect to, in order of preference; at least one. One refused address refuses all, so that nobody can
    /// have us try until the private one is hit.
    pub(crate) async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Unvetted> {
        let found = match target.host() {
            // Vetted when it was parsed too; once more, because this is the last look before connecting.
            TargetHost::Address(address) => vec![*address],
            TargetHost::Name(name) => {
                self.resolver.resolve(name).await.map_err(|error| Unvetted::Unresolved(error.kind()))?
            }
        };
        found.iter().try_for_each(|address| self.policy.vet_address(*address))?;
        if found.is_empty() {
            return Err(Unvetted::Unresolved(io::ErrorKind::NotFound));
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, target.port())).collect())
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("policy", &self.policy).finish_non_exhaustive()
    }
}
