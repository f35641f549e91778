//! Whether webhooks may go to a URL, asked when it is registered. The sender asks again before each connection: what is
//! refused here spares its caller a delivery that could never arrive, and what is let through here is trusted by nobody.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use prediction::Events;
use store::Webhook;
use tokio::time::{Instant, timeout};
use webhook::{Policy, Refused, Unvetted};

use crate::{
    api::Api,
    problem::{Fault, Kind, Problem},
};

/// The longest that a caller waits for a look-up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an origin that was looked up is not looked up again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// The most origins remembered: a megabyte at most, at 255 bytes to a name.
const MOST_REMEMBERED: usize = 2048;

/// Origins that were looked up of late and not refused, so that submitting to them stays fast.
#[derive(Default)]
pub(crate) struct Vetted(Mutex<HashMap<String, Instant>>);

impl Vetted {
    fn knows(&self, origin: &str, now: Instant) -> bool {
        let origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        origins.get(origin).is_some_and(|at| *at + REMEMBERED_FOR > now)
    }

    fn remember(&self, origin: &str, now: Instant) {
        let mut origins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if origins.len() >= MOST_REMEMBERED {
            origins.retain(|_, at| *at + REMEMBERED_FOR > now);
        }
        if origins.len() >= MOST_REMEMBERED {
            origins.clear();
        }
        origins.insert(origin.to_owned(), now);
    }
}

/// Vets the URL that stands at `pointer` in the request.
pub(crate) async fn vet(api: &Api, pointer: &str, url: &str, events: Events) -> Result<Webhook, Problem> {
    let Some(webhooks) = &api.config.webhooks else {
        let detail = "is refused: this server has no webhook key: set AUGUR_WEBHOOK_KEY";
        return Err(invalid(Fault { code: Some("webhooks_off"), ..Fault::new(pointer, detail) }));
    };
    let refused = |refused: Refused, why: String| {
        invalid(Fault { code: Some(word(refused)), ..Fault::new(pointer, format!("is refused: {why}")) })
    };
    let target = webhooks.guard.policy().vet_url(url).map_err(|reason| refused(reason, reason.to_string()))?;
    let origin = target.origin();
    if !api.vetted.knows(&origin, Instant::now()) {
        match timeout(PATIENCE, webhooks.guard.vet(target.as_str())).await {
            Ok(Err(Unvetted::Refused(reason))) => return Err(refused(reason, of_host(reason))),
            // A name server that is slow or away is no fault of the caller's, and the name may be made later than the
            // prediction: the schedule is patient, and the sender vets before it connects.
            Ok(Ok(_) | Err(Unvetted::Unresolved(_))) | Err(_) => api.vetted.remember(&origin, Instant::now()),
        }
    }
    Ok(Webhook { endpoint: target.endpoint(), url: target.as_str().to_owned(), origin, events })
}

/// The endpoint of a webhook's URL, read as at registration. Wherever it may lead: what was registered while other networks
/// were allowed can still be asked for.
pub(super) fn endpoint_named(url: &str) -> Option<String> {
    static ANYWHERE: LazyLock<Policy> = LazyLock::new(|| {
        let networks = ["0.0.0.0/0", "::/0"].map(str::parse);
        Policy { allowed: networks.into_iter().flatten().collect() }
    });
    ANYWHERE.vet_url(url).ok().map(|target| target.endpoint())
}

fn invalid(fault: Fault) -> Problem {
    Problem::new(Kind::InvalidWebhook, "No webhook can be sent there.").with_faults(vec![fault])
}

/// Why a host that is no address is refused. Without the address: what our name servers answer, who may know more than the
/// public ones, is not for everybody.
fn of_host(refused: Refused) -> String {
    match refused {
        Refused::Address { special, .. } => format!("its host leads to {}", special.as_str()),
        _ => refused.to_string(),
    }
}

/// The reason in one word.
const fn word(refused: Refused) -> &'static str {
    match refused {
        Refused::Malformed => "malformed",
        Refused::TooLong => "too_long",
        Refused::Character => "character",
        Refused::Scheme => "scheme",
        Refused::Userinfo => "userinfo",
        Refused::Port(_) => "port",
        Refused::Address { .. } => "address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_remembered_for_a_while_and_within_a_bound() {
        let (vetted, now) = (Vetted::default(), Instant::now());
        vetted.remember("https://a.example", now);
        assert!(vetted.knows("https://a.example", now) && !vetted.knows("http://a.example", now));
        let later = now + REMEMBERED_FOR;
        assert!(!vetted.knows("https://a.example", later));
        let fill = |now| (0..MOST_REMEMBERED).for_each(|n| vetted.remember(&format!("https://{n}.example"), now));
        let count = || vetted.0.lock().expect("nobody panicked").len();
        fill(later);
        assert_eq!(count(), MOST_REMEMBERED, "the first was too old to stay");
        vetted.remember("https://a.example", later);
        assert!(vetted.knows("https://a.example", later) && count() == 1);
    }

    #[test]
    fn endpoints_are_named_by_any_of_their_urls() {
        for (url, expected) in [
            ("HTTPS://Example.COM:443/a%3fb?c=d#e", Some("https://example.com/a%3fb")),
            ("https://example.com#e?f", Some("https://example.com/")),
            ("http://127.1/hook?x", Some("http://127.0.0.1/hook")),
            ("http://[::1]:8080/", Some("http://[::1]:8080/")),
            ("example.com", None),
        ] {
            assert_eq!(endpoint_named(url).as_deref(), expected, "{url}");
        }
    }
}
