//! What deliveries are signed with: the endpoint's own secrets, or else its tenant's, of which the first is made when it is needed.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use store::{ClaimedDelivery, SealedSecret};
use webhook::{NotOurs, Sealer, Secret, Secrets};

use super::sender::Sender;
use crate::outage::Trouble;

/// The name of a tenant's default among its endpoints.
const DEFAULT: &str = "";

/// A tenant and one of its endpoints.
type Owner<'a> = (&'a str, &'a str);

/// The secrets of a batch of deliveries.
pub(super) struct Keyring(HashMap<(String, String), Result<Arc<Secrets>, NotOurs>>);

impl Keyring {
    /// What signs this delivery.
    pub(super) fn secrets(&self, delivery: &ClaimedDelivery) -> Result<Arc<Secrets>, NotOurs> {
        // An endpoint that is forgotten meanwhile has its secrets here still.
        let owner = (delivery.tenant.clone(), delivery.endpoint.clone());
        self.0.get(&owner).cloned().unwrap_or(Err(NotOurs))
    }
}

/// Reads what signs these deliveries.
pub(super) async fn read(
    sender: &Sender,
    deliveries: impl Iterator<Item = &ClaimedDelivery> + Send,
) -> Result<Keyring, Trouble> {
    let owners: BTreeSet<Owner<'_>> =
        deliveries.map(|delivery| (delivery.tenant.as_str(), delivery.endpoint.as_str())).collect();
    let defaults = owners.iter().map(|(tenant, _)| (*tenant, DEFAULT));
    let of: Vec<Owner<'_>> = owners.iter().copied().chain(defaults).collect::<BTreeSet<_>>().into_iter().collect();
    let mut sealed = sender.ask(sender.store.secrets(&of)).await?;
    let missing = without_any(&owners, &sealed);
    if !missing.is_empty() {
        for (tenant, endpoint) in &missing {
            let secret = sender.sealer.seal(&Secret::generate(), tenant, endpoint);
            // Somebody else may have been faster; then theirs counts.
            sender.ask(sender.store.add_secret(tenant, endpoint, &secret)).await?;
        }
        sealed.extend(sender.ask(sender.store.secrets(&missing)).await?);
    }
    Ok(open(&sender.sealer, &owners, &sealed))
}

/// The defaults that are needed and not there.
fn without_any<'a>(owners: &BTreeSet<Owner<'a>>, sealed: &[SealedSecret]) -> Vec<Owner<'a>> {
    let there: BTreeSet<Owner<'_>> = sealed.iter().map(owner).collect();
    let needed = owners.iter().filter(|owner| !there.contains(*owner)).map(|(tenant, _)| (*tenant, DEFAULT));
    needed.filter(|default| !there.contains(default)).collect::<BTreeSet<_>>().into_iter().collect()
}

fn owner(sealed: &SealedSecret) -> Owner<'_> {
    (&sealed.tenant, &sealed.endpoint)
}

/// Of each owner's secrets the current one comes first.
fn open(sealer: &Sealer, owners: &BTreeSet<Owner<'_>>, sealed: &[SealedSecret]) -> Keyring {
    let mut of: HashMap<Owner<'_>, Vec<&SealedSecret>> = HashMap::new();
    for sealed in sealed {
        of.entry(owner(sealed)).or_default().push(sealed);
    }
    let open = |sealed: &SealedSecret| sealer.open(&sealed.sealed, &sealed.tenant, &sealed.endpoint);
    let secrets = |(tenant, endpoint): Owner<'_>| {
        let sealed = of.get(&(tenant, endpoint)).or_else(|| of.get(&(tenant, DEFAULT))).ok_or(NotOurs)?;
        let (current, previous) = sealed.split_first().ok_or(NotOurs)?;
        // One from before the key was changed is past its use.
        let previous = previous.iter().filter_map(|sealed| open(sealed).ok()).collect();
        Ok(Arc::new(Secrets { current: open(current)?, previous }))
    };
    let named = |(tenant, endpoint): Owner<'_>| (tenant.to_owned(), endpoint.to_owned());
    Keyring(owners.iter().map(|owner| (named(*owner), secrets(*owner))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.com/hook";

    fn sealed(sealer: &Sealer, secret: &Secret, tenant: &str, endpoint: &str) -> SealedSecret {
        let sealed = sealer.seal(secret, tenant, endpoint);
        SealedSecret { tenant: tenant.to_owned(), endpoint: endpoint.to_owned(), sealed, expires_at: None }
    }

    #[test]
    fn an_endpoint_without_a_secret_of_its_own_has_its_tenants() {
        let (sealer, other) = (Sealer::new([1; 32]), Sealer::new([2; 32]));
        let (own, default, old) = (Secret::generate(), Secret::generate(), Secret::generate());
        let kept = [
            sealed(&sealer, &own, "a", URL),
            sealed(&sealer, &old, "a", URL),
            sealed(&other, &old, "a", URL),
            sealed(&sealer, &default, "a", DEFAULT),
            sealed(&other, &default, "b", DEFAULT),
        ];
        let owners = BTreeSet::from([("a", URL), ("a", "https://example.com/"), ("b", URL), ("c", URL)]);
        assert_eq!(without_any(&owners, &kept), [("c", DEFAULT)]);
        let keyring = open(&sealer, &owners, &kept);
        let bytes = |tenant: &str, endpoint: &str| {
            let secrets = keyring.0[&(tenant.to_owned(), endpoint.to_owned())].clone()?;
            let previous = secrets.previous.iter().map(|secret| secret.as_bytes().to_vec());
            Ok([secrets.current.as_bytes().to_vec()].into_iter().chain(previous).collect::<Vec<_>>())
        };
        assert_eq!(bytes("a", URL), Ok(vec![own.as_bytes().to_vec(), old.as_bytes().to_vec()]));
        assert_eq!(bytes("a", "https://example.com/"), Ok(vec![default.as_bytes().to_vec()]));
        assert_eq!((bytes("b", URL), bytes("c", URL)), (Err(NotOurs), Err(NotOurs)));
    }
}
